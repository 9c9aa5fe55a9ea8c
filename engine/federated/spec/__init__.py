"""The federated training that can be asked for, and the kinds of its parts.

Annotations of the task are evaluated where they stand, as in `engine.attacks.spec`.
"""

from engine.federated.spec.compression import CompressionSpec, Int8, TopK
from engine.federated.spec.federate import AdaptiveClipping, Capture, ClientPrivacy, Federate
from engine.federated.spec.grid import Deployment, GridSpec, Local, Ray
from engine.federated.spec.hostile import (
    Backdoor,
    FreeRider,
    Gaussian,
    HostileSpec,
    LabelFlip,
    Scaled,
    SignFlip,
)
from engine.federated.spec.partition import (
    IID,
    Dirichlet,
    Natural,
    PartitionSpec,
    QuantitySkew,
    Shards,
)
from engine.federated.spec.secure import SecureAggregation
from engine.federated.spec.strategy import (
    Adaptive,
    Bulyan,
    Byzantine,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedBN,
    FedMedian,
    FedProx,
    FedYogi,
    Krum,
    MultiKrum,
    Scaffold,
    StrategySpec,
    TrimmedMean,
)

__all__ = [
    "IID",
    "Adaptive",
    "AdaptiveClipping",
    "Backdoor",
    "Bulyan",
    "Byzantine",
    "Capture",
    "ClientPrivacy",
    "CompressionSpec",
    "Deployment",
    "Dirichlet",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedBN",
    "FedMedian",
    "FedProx",
    "FedYogi",
    "Federate",
    "FreeRider",
    "Gaussian",
    "GridSpec",
    "HostileSpec",
    "Int8",
    "Krum",
    "LabelFlip",
    "Local",
    "MultiKrum",
    "Natural",
    "PartitionSpec",
    "QuantitySkew",
    "Ray",
    "Scaffold",
    "Scaled",
    "SecureAggregation",
    "Shards",
    "SignFlip",
    "StrategySpec",
    "TopK",
    "TrimmedMean",
]
