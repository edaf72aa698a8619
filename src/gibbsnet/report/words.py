"""What the page says: what each score means, which direction is better, how each picture is read."""

from typing import NamedTuple


class Score(NamedTuple):
    """better: +1 higher, -1 lower, 0 neither; places: decimals shown; meaning: one plain sentence."""

    better: int
    places: int
    meaning: str


SCORES = {
    "class_score": Score(
        1, 2,
        "How sure the data set's own classifier is about each of 5,000 samples, and how evenly the samples spread over "
        "the classes (the Inception-score formula); 1 is worst, the number of classes is best.",
    ),
    "class_score_std": Score(0, 2, "Spread of class_score over ten parts of the samples."),
    "class_score_ratio": Score(
        1, 3, "class_score minus 1, divided by the same of the test images: 1 is as good as real data.",
    ),
    "class_frechet": Score(
        -1, 3,
        "Distance between two Gaussians, one fitted to the classifier's features of 5,000 samples and one to those of "
        "the training set.",
    ),
    "class_frechet_ratio": Score(
        -1, 3,
        "class_frechet divided by the one of a single Gaussian fitted to the training pixels: 1 is no better than that "
        "Gaussian, and the test images' value is the floor.",
    ),
    "class_kid": Score(
        -1, 4, "Unbiased kernel distance between the classifier's features of samples and of the training set.",
    ),
    "inception_score": Score(1, 2, "The Inception score, with the weights of the Inception network."),
    "inception_score_std": Score(0, 2, "Spread of inception_score over ten parts of the samples."),
    "fid": Score(-1, 2, "Frechet distance between Inception features of samples and of data."),
    "classes": Score(
        1, 0, "Classes that hold at least 2 % of the samples with a confidence of .9 or more: fewer are missed modes.",
    ),
    "switch_rate": Score(
        1, 3,
        "How often a chain changes class within ten steps, relative to independent draws: 0 is a chain that stays "
        "where it is, 1 is one that forgets within ten steps.",
    ),
    "joint_distance": Score(
        -1, 4,
        "Energy distance between pairs (features of x, z) of the unclamped chain and of data with inferred z; below "
        "the test value (95 % of comparisons of real with real pairs) the two cannot be told apart.",
    ),
    "probe_accuracy": Score(
        1, 3,
        "Test accuracy of a logistic regression on the latent's posterior mean; it says something only where it beats an "
        "untrained encoder of the same shape.",
    ),
    "non_gaussianity": Score(
        0, 3,
        "Nats per dimension by which a mixture of ten Gaussians predicts held-out draws of the latent better than one "
        "Gaussian does.",
    ),
    "mse": Score(
        -1, 4,
        "Squared error per pixel, in [0, 1] units, between a test image and one drawn from its inferred latent alone.",
    ),
    "same_class": Score(
        1, 3,
        "Share of test examples that the classifier (for toys: the nearest mode) puts in the same class as their "
        "reconstruction.",
    ),
    "modes": Score(
        1, 0, "Modes that hold at least a quarter of their fair share of the samples within three standard deviations.",
    ),
    "share": Score(1, 3, "Samples within three standard deviations of any mode; of real points it is .989."),
    "sliced_wasserstein": Score(
        -1, 4, "Distance between samples and data, averaged over one-dimensional projections.",
    ),
}  # fmt: skip

# How runs were scored that do not compare (scored.json).
CONDITIONS = {"judge": "by different judges", "data": "on different data", "samples": "by different numbers of samples"}

REFERENCES = {
    "test": "real test data in place of samples: the best that can be asked for",
    "gaussian": "draws of one Gaussian fitted to the training data: the least a model should beat",
    "mean_image": "the mean training image as every reconstruction",
    "shuffled_z": "real pairs whose latents were shuffled: a chain that is no better has lost the link between x and z",
    "pca": "principal components, as many as the latent has dimensions",
    "raw_pixels": "the same probe on the pixels themselves",
    "untrained_encoder": "the same probe on an encoder of the same shape before training",
}

# kind of picture: title, how to read it
PICTURES = {
    "samples": (
        "Samples",
        "Independent unclamped chains after N sweeps. Look for variety as well as for sharpness.",
    ),
    "chain": (
        "Chains",
        "Each row is one chain, each column a step i; for points, each panel is a step, with the data in grey. A good chain "
        "stays plausible to the right and keeps changing what it shows.",
    ),
    "tsne_x": (
        "Samples among data",
        "t-SNE of x. Above, the chain's steps should cover the grey data and nothing else; below, dots (samples) should lie "
        "among crosses (data) of their colour. Distances between clusters mean little.",
    ),
    "tsne_z": (
        "Latents of the chain among those inferred from data",
        "t-SNE of the highest latent, read in the same way: where the colours of steps leave the grey, the chain visits "
        "latents that no data have.",
    ),
    "latent": (
        "Latent planes",
        "Posterior means of data, coloured by class, over draws from the prior in grey: as they are in two dimensions, else by "
        "the first two principal components. Points on the frame lie outside of it.",
    ),
    "interpolations": (
        "Interpolations",
        "The outermost columns are real; between them, images are decoded on the straight line between their latents, with "
        "the noise held fixed. Each one should look real, not like two at once.",
    ),
    "reconstructions": (
        "Reconstructions",
        "Each real x stands above, or is joined to, an x′ drawn from its inferred latent alone. What agrees is what that "
        "latent remembers.",
    ),
    "classes": (
        "Classes",
        "A column for each class. Asked: y was clamped to it. Joint: nothing was clamped, and the chain gave x and y together. "
        "Read: real images, x was clamped.",
    ),
    "edits": (
        "Edits",
        "A real image, its reconstruction, and the same with another label or one attribute changed while the latents are held.",
    ),
}

# file that a benchmark leaves in a run's folder: title, how to read it
MEASUREMENTS = {
    "fill": (
        "Filling in what is missing",
        "Chains that hold a part of test images and redraw the rest, after i sweeps, beside what they have to beat: mse of one "
        "fill, of the mean of 14, between two fills of one image (equal to mse for draws from the right law), and how often "
        "the classifier still gives the image's class. Of a mix, one half of each of two images, what is shown is x drawn again: "
        "how far from the mix, and how often of the class of either. Labelled: the image's label is held as well, and what has "
        "to be beaten is found among images of its class.",
    ),
    "approach": (
        "How fast a wrong start is forgotten",
        "Total variation d_i between where chains are after i sweeps (this class or mode, that one, none) and where they settle, "
        "by their start; the factor by which it falls in a sweep, and the second eigenvalue that should be that factor.",
    ),
    "settle": (
        "Fast inference, and daydreams",
        "Sweeps until the chain that perceives an image settles, by the potency of z2; and how far a chain that does not hear "
        "its image strays from it, by the reconstruction error at which it is called back.",
    ),
    "labels": (
        "Labels and attributes as variables",
        "What one model of images and labels does, by clamping: draw the class that is asked for, classify (what is read has "
        "a loss beside the game), draw both, edit; beside what it has to beat.",
    ),
}
