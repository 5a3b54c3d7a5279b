"""The gallery: functions everyone knows, and the kernels tgc makes of them, checked in to be read and compared."""
