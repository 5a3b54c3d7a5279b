"""From a call to its result: dispatch, programs and their sources, native code, memory, threads.

| what | modules |
|---|---|
| a call is known again | `dispatch`, `guarded`, `captures`, `watch`, `steps`, `collection` |
| and runs | `runners`, `autograd`, `donation`, `seeds`, `tensors`, `tensor_fields` |
| a program | `cache`, `build`, `program`; `offline` compiles Triton kernels where there is no GPU |
| native code | `interpreter`, `routine`, `objects`, `arrays`, `native` |
| memory | `memory`; `blocks` is the same in native code |
| threads | `workers` for Python functions, `team` for native kernels |
| products | `blas` finds a library; `products` are its products on the team |
| numpy | `quiet` |

A call is found by `dispatch`, through a guard or by its key; `runners` prepares one for its exact types; a `program`
holds the sources for all sizes, which come from the cache or from the compiler.
"""
