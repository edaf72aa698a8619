"""The smallest training that the callbacks can accompany: one weight, manual optimisation, data that depend on the step."""

import random
import signal

import numpy
import pytorch_lightning as pl
import torch


class Steps:
    """Yields the numbers of the batches, from the trainer's step to the last; its length is the whole run's."""

    def __init__(self, steps, start):
        self.steps, self.start = steps, start

    def __len__(self):
        return self.steps

    def __iter__(self):
        return iter([torch.tensor(step) for step in range(self.start(), self.steps)])

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class Data(pl.LightningDataModule):
    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def train_dataloader(self):
        return Steps(self.steps, lambda: self.trainer.global_step)


class Toy(pl.LightningModule):
    """Pulls a weight to a target that moves with the step. `events`: step -> what happens in that batch."""

    def __init__(self, events=None):
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(3))
        self.dropout = torch.nn.Dropout()
        self.frozen = torch.nn.Dropout().eval()
        self.register_buffer("images", torch.zeros((), dtype=torch.int64))
        self.diagnostics, self.events, self.seen = {}, events or {}, []

    @property
    def images_seen(self):
        return int(self.images)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)

    def training_step(self, batch, batch_idx):
        self.seen.append(int(batch))
        self.events.get(self.trainer.global_step + 1, lambda module: None)(self)
        loss = (self.weight - batch.float().sin()).square().sum()
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.images += 10
        self.diagnostics = {"loss_critic": loss.detach(), "logit_clamped": self.weight.detach().mean()}


def interrupt(number=signal.SIGINT):
    """An event: the signal arrives in the middle of the batch, in this thread: another may not have it blocked."""
    return lambda module: signal.raise_signal(number)


def poison(value=float("nan")):
    """An event: the weights are no numbers any more."""
    return lambda module: module.weight.data.fill_(value)


def fit(callbacks, steps=20, module=None, ckpt_path=None, logger=False, **options):
    """Trains a toy; the module and the trainer."""
    module = module or Toy()
    bar = any(isinstance(callback, pl.callbacks.ProgressBar) for callback in callbacks)
    plain = dict(accelerator="cpu", devices=1, max_steps=steps, logger=logger, enable_model_summary=False)
    plain |= dict(enable_progress_bar=bar, use_distributed_sampler=False)
    trainer = pl.Trainer(callbacks=callbacks, **(plain | options))
    trainer.fit(module, Data(steps), ckpt_path=ckpt_path, weights_only=True)
    return module, trainer


def distance(module):
    """A measurement that draws from every global generator, and depends on the weights alone."""
    torch.rand(7), numpy.random.rand(), random.random()
    return {"distance": float((module.weight - 1).abs().sum()), "other": 2.0}


def figure(module):
    """One small figure."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(1, 1))
    drawn.add_subplot().plot(module.weight.detach().tolist())
    yield "samples", drawn
