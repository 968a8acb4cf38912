"""Exact arithmetic, version 1 (docs/EXACT.md): training whose result does not depend on the machine.

Matrix products and sums run on integers, so their order cannot matter; everything else is a single correctly rounded
IEEE operation. Never used here: exp, log, softmax, sums and means of floats, fused or scaled adds, torch's optimisers,
its random numbers, and the division of a tensor by a Python number (a reciprocal multiplication on some devices).
"""
