"""What decides, one policy a file, and that of the optimizer in slo/; pure."""

from loop.policies.plugins import code_digest, identity
from loop.policies.registry import make_policy, policy_names

__all__ = ["code_digest", "identity", "make_policy", "policy_names"]
