"""The one ridge solver of every method that writes weights in closed form, and of the meta-gradient.

W: (d, m) is a linear map, K: (m, n) the keys of n facts (its inputs), R: (d, n) what its outputs lack,
C: (m, m) the second moment of ordinary keys. Every update D: (d, m) is R times a gain (n, m), so that (R, gain) are
its low-rank factors:

    ridge_gain        K^T (ridge C + K K^T)^-1            MEMIT, EMMET with its regulariser, MALMEN, UltraEdit
    equality_gain     (K^T C^-1 K)^-1 K^T C^-1            ROME, EMMET
    RecursiveRidge    ridge_gain over batch after batch, earlier keys remembered: MEMIT with cache, AlphaEdit
    NullSpace         the directions that ordinary keys hardly use: AlphaEdit

All of it in float64, by Cholesky factors. Knows nothing of models, editors or where the keys come from.
"""
