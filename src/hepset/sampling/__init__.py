"""Sampling: how often each training event is shown.

`reweighting` turns histograms of the classes into acceptances, `drawing` turns acceptances into
integer numbers of repetitions, and `split` does both for a split of a data set.
"""
