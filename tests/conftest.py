"""Settings shared by all tests."""

import torch
from hypothesis import settings

torch.set_num_threads(1)
# machines that run tests are shared: a slow example is no failure
settings.register_profile("s5", deadline=None, max_examples=50)
settings.load_profile("s5")
