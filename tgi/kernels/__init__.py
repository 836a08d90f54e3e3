"""Every numeric operation a model needs, behind one interface, dispatched on the tensors' device and what is installed.

`reference.py` (torch operations) defines each result; `cpu.py` calls the native library of `native/`. All activations
are float32. On the CPU each output element is reduced in one order that depends on nothing but the element: not on the
number of rows, how a prompt was chunked, which block a token lies in, the thread count or the neighbours in the batch.
"""
