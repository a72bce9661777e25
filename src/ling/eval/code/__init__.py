"""Code answers of models: read problems, run answers in a sandbox of the kernel, count passes.

`sandbox.py` runs programs, `inside/` is what runs in it, `problems.py` reads benchmarks,
`answers.py` finds the code in an answer, `judge.py` puts them together.
"""
