"""What a machine boots, as a library: docs/api.md."""

from __future__ import annotations

from composer.sysroot.deploying import Order, deploy, prepare
from composer.sysroot.deployment import Deployment
from composer.sysroot.ordering import roll_back, undeploy
from composer.sysroot.status import Status, status
from composer.sysroot.sysroot import Sysroot

__all__ = [
    "Deployment",
    "Order",
    "Status",
    "Sysroot",
    "deploy",
    "prepare",
    "roll_back",
    "status",
    "undeploy",
]
