"""What the commands say of policies. It imports no policy: --help must stay quick."""

from __future__ import annotations

POLICY_HELP = (
    "what decides: slo (default), hpa, kpa, keda, ray_serve, aibrix, wva, dynamo, predictive, "
    "through_hpa, static or static_peak"
)
