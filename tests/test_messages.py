import pytest
import torch

from gibbsnet.graph import Critic
from gibbsnet.messages import Transposed, build_message
from tests.models import normal, seeded

IMAGE, CONV, DECONV = (2, 8, 8), [[4, 2, 6], [3, 1, 4]], [[2, 1, 6], [4, 2, 4]]
CASES = [
    ({"kind": "mlp", "width": []}, (3,), (4,)),
    ({"kind": "mlp", "width": [5, 6]}, IMAGE, (2, 3)),
    ({"kind": "mlp", "width": [6], "norm": "layer", "dropout": 0.3}, (3,), (4,)),
    ({"kind": "mlp", "width": [6], "leak": "maxout"}, (3,), (4,)),
    ({"kind": "mlp", "width": [6], "ends": True}, (4,), (1,)),
    ({"kind": "mlp", "width": [6], "ends": True, "leak": "maxout"}, (4,), (1,)),
    ({"kind": "conv", "layers": CONV}, IMAGE, (5,)),
    ({"kind": "conv", "layers": CONV, "leak": "maxout", "dropout": 0.2}, IMAGE, (5,)),
    ({"kind": "conv", "layers": [[3, 1, 32]], "padding": 1, "norm": "group"}, IMAGE, (5, 8, 8)),
    ({"kind": "conv", "layers": [[3, 1, 4], [1, 1, 4]], "padding": 1, "norm": "layer"}, IMAGE, (5, 8, 8)),
    ({"kind": "conv", "layers": CONV, "norm": "batch"}, IMAGE, (5,)),
    ({"kind": "deconv", "layers": DECONV}, (7,), (2, 6, 6)),
    ({"kind": "deconv", "layers": [[2, 2, 4]], "start": [3, 4, 4], "norm": "layer"}, (7,), IMAGE),
    ({"kind": "deconv", "layers": [[2, 2, 4]]}, (3, 4, 4), IMAGE),
    ({"kind": "deconv", "layers": [[2, 2, 4]], "start": [3, 4, 4]}, (2, 2, 2), IMAGE),
    ({"kind": "linear", "scale": 1.0}, IMAGE, (3, 2)),
]


@pytest.mark.parametrize(
    "network, source, target", CASES, ids=lambda c: c.get("kind", "") if isinstance(c, dict) else ""
)
def test_contract(network, source, target):
    """Shape, gradient to every named parameter and to the source, save and load; examples apart unless asked otherwise."""
    make = lambda seed: seeded(lambda: build_message(network, source, target), seed).double()  # noqa: E731
    message, x = make(0).eval(), normal(6, *source).requires_grad_()
    said = message(x)
    assert said.shape == (6, *target)
    torch.manual_seed(0)
    message.train()(x).mul(normal(6, *target, seed=1)).sum().backward()
    # A maxout's losing half and a rectifier's dead side are zero somewhere, a whole tensor of zeros is a cut wire.
    # Batch normalisation takes away what the bias before it adds.
    dead = {name for name, p in message.named_parameters() if not p.grad.abs().sum() > 1e-12}
    assert dead == ({"net.0.bias", "net.3.bias"} if network.get("norm") == "batch" else set())
    assert x.grad.flatten(1).abs().sum(1).min() > 0
    message.eval()
    other = make(1).eval()
    assert not torch.equal(other(x), message(x))
    other.load_state_dict(message.state_dict())
    assert torch.equal(other(x), message(x))
    if network.get("norm") != "batch":
        message.train()
        if not network.get("dropout"):
            assert torch.allclose(torch.cat([message(x[:2]), message(x[2:])]), said, atol=1e-12)


def test_the_identity_says_what_it_hears():
    x = normal(6, *IMAGE)
    assert torch.equal(build_message({"kind": "identity"}, IMAGE, IMAGE)(x), x)


def test_batch_normalisation_couples_examples():
    message = build_message({"kind": "conv", "layers": CONV, "norm": "batch"}, IMAGE, (5,)).double()
    x = normal(6, *IMAGE)
    assert message.training and not message.net[1].running_mean.any()  # building it leaves no trace
    assert not torch.allclose(torch.cat([message(x[:2]), message(x[2:])]), message(x))


def test_maxout_is_the_greater_of_two_maps():
    message = build_message({"kind": "mlp", "width": [3], "leak": "maxout"}, (2,), (3,)).double()
    first, last = message.net[1], message.net[3]
    x = normal(4, 2)
    with torch.no_grad():
        last.weight.copy_(torch.eye(3))
        last.bias.zero_()
    a = first(x)
    assert torch.allclose(message(x).squeeze(), torch.maximum(a[:, 0::2], a[:, 1::2]))


def test_a_head_begins_with_an_activation():
    head = build_message({"kind": "mlp", "width": [], "ends": True, "leak": 0.2}, (3,), (1,)).double()
    x = normal(5, 3)
    last = list(head.net)[2]
    assert torch.allclose(head(x), last(torch.nn.functional.leaky_relu(x, 0.2)))


def test_a_linear_message_and_its_transpose_share_one_matrix():
    linear = build_message({"kind": "linear", "scale": 1.0}, (2, 3), (4,)).double()
    back = Transposed(linear)
    u, v = normal(5, 2, 3), normal(5, 4, seed=1)
    forward, backward = linear(u), back(v)
    assert forward.shape == (5, 4) and backward.shape == (5, 2, 3)
    # <W u, v> = <u, W' v>
    assert torch.allclose((forward * v).sum(1), (u * backward).flatten(1).sum(1))
    assert [id(p) for p in back.parameters()] == [id(linear.weight)]
    with torch.no_grad():
        linear.weight.mul_(2)
    assert torch.allclose(back(v), 2 * backward)


ENCODER = [[5, 1, 32], [4, 2, 64], [4, 1, 128], [4, 2, 256], [4, 1, 512], [1, 1, 512]]
DECODER = [[4, 1, 256], [4, 2, 128], [4, 1, 64], [4, 2, 32], [5, 1, 32], [1, 1, 32]]
CRITIC = [[5, 1, 32], [4, 2, 64], [4, 1, 128], [4, 2, 256], [4, 1, 512]]


def sizes(net):
    """Height and channels after every convolution."""
    found = []
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            module.register_forward_hook(lambda _, __, out: found.append((out.shape[1], out.shape[2])))
    return found


def test_the_published_networks_of_ali_fit_cifar():
    """Dumoulin et al. 2016, CIFAR-10: 32 x 32 -> 28, 13, 10, 4, 1 and back, z of 64."""
    encode = build_message({"kind": "conv", "layers": ENCODER, "leak": 0.1, "norm": "batch"}, (3, 32, 32), (128,))
    decode = build_message({"kind": "deconv", "layers": DECODER, "leak": 0.1, "norm": "batch"}, (64,), (3, 32, 32))
    down, up = sizes(encode), sizes(decode)
    x, z = torch.zeros(2, 3, 32, 32), torch.zeros(2, 64)
    assert encode(x).shape == (2, 128) and decode(z).shape == x.shape
    assert down == [(32, 28), (64, 13), (128, 10), (256, 4), (512, 1), (512, 1)]
    assert up == [(256, 4), (128, 10), (64, 13), (32, 28), (32, 32), (32, 32), (3, 32)]
    critic = Critic(
        {
            "x": build_message(
                {"kind": "conv", "layers": CRITIC, "leak": "maxout", "dropout": 0.2}, x.shape[1:], (1024,)
            ),
            "z": build_message({"kind": "mlp", "width": [512, 512], "leak": "maxout", "dropout": 0.2}, (64,), (1024,)),
        },
        build_message({"kind": "mlp", "width": [1024], "leak": "maxout", "ends": True, "dropout": 0.5}, (1024,), (1,)),
    )
    assert critic({"x": x, "z": z}).shape == (2,)


@pytest.mark.parametrize(
    "network, source, target, words",
    [
        ({"kind": "transformer"}, (2,), (2,), "unknown kind of network 'transformer': expected one of mlp, conv"),
        ({"kind": "mlp", "widht": [3]}, (2,), (2,), "mlp.*widht"),
        ({"kind": "mlp", "norm": "batch"}, (2,), (2,), "unknown norm 'batch' of an mlp"),
        ({"kind": "conv", "layers": CONV, "norm": "spectral"}, IMAGE, (2,), "unknown norm 'spectral'"),
        ({"kind": "conv", "layers": [[9, 1, 4]]}, IMAGE, (2,), "does not fit 2 x 8 x 8"),
        ({"kind": "conv", "layers": [[3, 1, 4]]}, IMAGE, (2, 8, 8), "reaches 4 x 6 x 6 where 2 x 8 x 8 is needed"),
        ({"kind": "deconv", "layers": DECONV}, (7,), IMAGE, "reaches 4 x 6 x 6 where 2 x 8 x 8 is needed"),
        ({"kind": "conv", "layers": CONV}, (7,), (2,), "does not fit 7"),
        ({"kind": "identity"}, IMAGE, (7,), "the identity leads from 2 x 8 x 8 to 2 x 8 x 8, not to 7"),
    ],
)
def test_errors_name_what_is_wrong(network, source, target, words):
    with pytest.raises(ValueError, match=words):
        build_message(network, source, target)


def test_transposed_convolutions_put_channels_last_under_bf16_alone():
    """The faster order of memory changes no value: bits in float32, and in bfloat16 its precision, gradients included."""
    message = seeded(lambda: build_message({"kind": "deconv", "layers": DECONV}, (7,), (2, 6, 6)))
    plain = seeded(lambda: torch.nn.Sequential(torch.nn.ConvTranspose2d(7, 6, 2), torch.nn.LeakyReLU(0.2)))
    x, seen = normal(6, 7).float(), []
    assert torch.equal(message.net[:2](x[..., None, None]), plain(x[..., None, None]))
    message.net[2].register_forward_hook(lambda net, given, said: seen.append(said))
    exact = message(x)
    with torch.autocast("cpu", torch.bfloat16):
        rough = message(x)
    assert [s.is_contiguous(memory_format=torch.channels_last) for s in seen] == [False, True]
    assert torch.allclose(rough.float(), exact, atol=0.02 * exact.detach().abs().max().item())
    weights = list(message.parameters())
    for a, b in zip(torch.autograd.grad(rough.float().square().sum(), weights),
                    torch.autograd.grad(exact.square().sum(), weights), strict=True):  # fmt: skip
        assert (a - b).norm() < 0.05 * b.norm()
