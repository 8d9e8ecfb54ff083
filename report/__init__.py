"""Reports: what a run or a comparison left, as one self-contained page with its figures."""
