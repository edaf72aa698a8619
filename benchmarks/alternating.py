r"""ALI as a plain alternating loop, the way it is usually written: the yardstick of the one-pass step.

    critic's step   z_hat ~ q(z|x), x_hat ~ p(x|z), both without history;  softplus(-D(x, z_hat)) + softplus(D(x_hat, z))
    graph's step    both drawn anew, through D as it now is;               softplus(D(x, z_hat)) + softplus(-D(x_hat, z))

It is plain PyTorch, with an Adam for each player, on the networks of a module of this project, so that arithmetic and
precision are equal.
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from gibbsnet.graph import State
from gibbsnet.modules import GibbsNet


class Alternating:
    """One call is one training step of both players.

    Arguments:
        module: an ALI.
        frugal: each player's gradient alone is computed.  Otherwise `loss.backward()` in the graph's step also fills the
            critic's gradients, which are thrown away, as in most published loops.
    """

    def __init__(self, module: GibbsNet, frugal: bool = True):
        o, self.frugal = module.hparams.optim, frugal
        self.q, self.p, (self.critic,) = module.graph["z"], module.graph["x"], module.critics.values()
        self.players = [[p for p in net.parameters() if p.requires_grad] for net in (module.critics, module.graph)]
        self.adams = [torch.optim.Adam(free, lr=o["lr"], betas=tuple(o["betas"]), fused=True) for free in self.players]

    def __call__(self, x: Tensor) -> None:
        with torch.no_grad():
            real, fake = self.pairs(x)
        self._step(0, softplus(-self.critic(real)) + softplus(self.critic(fake)))
        real, fake = self.pairs(x)
        self._step(1, softplus(self.critic(real)) + softplus(-self.critic(fake)))

    def pairs(self, x: Tensor) -> tuple[State, State]:
        """(x, z_hat) and (x_hat, z)."""
        mu, sigma = self.q.family.moments(self.q.eta({"x": x}, len(x)))
        z = torch.randn_like(mu)
        mean = self.p.family.location(self.p.eta({"z": z}, len(x)))
        fake = mean + self.p.family.scale * torch.randn_like(mean)
        return {"x": x, "z": mu + sigma * torch.randn_like(mu)}, {"x": fake, "z": z}

    def _step(self, player: int, loss: Tensor) -> None:
        free, adam = self.players[player], self.adams[player]
        if self.frugal:
            for p, g in zip(free, torch.autograd.grad(loss.mean(), free), strict=True):
                p.grad = g
        else:
            for each in self.adams:
                each.zero_grad()
            loss.mean().backward()
        adam.step()
