"""What people read: explain, cost, the command line."""
