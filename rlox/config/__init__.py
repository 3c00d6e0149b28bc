"""Configuration: one frozen dataclass per algorithm, presets, and where each value comes from. Standard library only."""

from .bc import BCConfig
from .cql import CQLConfig
from .fields import Option, make_config, option, options_of, to_dict, validate
from .network import NetworkConfig
from .off_policy import OffPolicyConfig
from .sac import SACConfig

__all__ = [
    "BCConfig",
    "CQLConfig",
    "NetworkConfig",
    "OffPolicyConfig",
    "Option",
    "SACConfig",
    "make_config",
    "option",
    "options_of",
    "to_dict",
    "validate",
]
