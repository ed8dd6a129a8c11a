"""What decides, one policy a file; pure."""

from loop.policies.registry import make_policy, policy_names

__all__ = ["make_policy", "policy_names"]
