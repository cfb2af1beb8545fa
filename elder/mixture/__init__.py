"""The parts of ELDER: low-rank mixture, router, guided allocation, deferral scope."""
