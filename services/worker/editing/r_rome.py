"""R-ROME: ROME with one key throughout (Gupta et al. 2024, arXiv 2403.07175).

ROME turns towards the key averaged over contexts, but is solved for the key of the bare prompt. The paper
finds that this mismatch is what breaks a model under sequential edits, and uses the average in both places:
ΔW = (z − W k̄) (C⁻¹k̄)ᵀ / (k̄ᵀC⁻¹k̄), so that the edited layer answers k̄ with z.
"""

from services.worker.editing.rome import MEAN_KEY, Rome

R_ROME = Rome(answered_key=MEAN_KEY)
