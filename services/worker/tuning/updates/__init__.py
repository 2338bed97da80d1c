"""Parameter updates: what learns, in which precision, and how it is taken away again.

Precision. What learns is float32: in float16 or bfloat16 most steps of a small learning rate would be
rounded away. Under a full update or BitFit every weight of the model is float32 while it learns. Adapters
and virtual tokens stand beside weights in the model's own dtype, except that a float16 base is float32 too,
for float16 gradients underflow without loss scaling. Probes see the weights as they would be deployed.
"""

from services.worker.tuning.updates.applying import check_update_fits, trainable
from services.worker.tuning.updates.learner import Learner

__all__ = ["Learner", "check_update_fits", "trainable"]
