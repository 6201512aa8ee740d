"""Understudy measures how easily a deployed model can be copied through its prediction interface."""
