"""Why a model may have failed: an ordered list, read from top to bottom, that turns checks into one named cause.

The first cause holds of which every check in `needs` failed. The order is that of consequence: a fault of the data
produces the symptoms of a bad training, a bad training those of a broken model, and a broken model those of one that
does not generalise; so a symptom is believed to be a cause of its own once nothing above it explains it. Where an entry
departs from that, a comment says why.
"""

from dataclasses import dataclass

__all__ = ["ASSEMBLY", "CAUSES", "Cause", "GROUPS", "GIVE_DATASET", "NO_SIGNAL", "NOTHING_LEARNED", "NO_UNSEEN",
           "OF_THE_MODEL", "ON_UNSEEN", "SHIFTED", "TOO_FEW", "TURNED", "WITHIN"]

GROUPS = ("data", "optimisation", "model", "generalisation")  # in the order in which one brings about the next


@dataclass(frozen=True)
class Cause:
    """One line of the decision list: named when every check of `needs` failed and none of `unless` is ok."""

    name: str
    group: str                          # of GROUPS
    verdict: str                        # the diagnosis' verdict when this cause is named
    needs: tuple[str, ...]
    next_step: str
    supports: tuple[str, ...] = ()      # checks quoted as evidence as well, when they warned or failed
    unless: tuple[str, ...] = ()
    only_without: tuple[str, ...] = ()  # checks that know better: only where none of them was run
    alternatives: tuple[str, ...] = ()  # causes that the checks at hand cannot tell from this one
    separated_by: str = ""              # what would tell them apart


NO_SIGNAL = "labels carry no signal about the inputs"
NOTHING_LEARNED = "the model learned nothing"
TOO_FEW = "too few windows to tell"
NO_UNSEEN = "no unseen rows"
TURNED = "the sign is turned round"
OF_THE_MODEL = "a fault of the model or its training"
GIVE_DATASET = "The dataset tells labels without signal from a fault of the model."

# --- before anything else ---------------------------------------------------------------------------------------
# Not a fault of what is judged, and every check that compares predictions with the dataset would be misled.
_BELONGING = (
    Cause("the predictions belong to another dataset", "data", "cannot tell", ("scores are the dataset's",),
          "Give the dataset that the predictions were made for, with its windows in the same order."),
)

# --- faults of the data ----------------------------------------------------------------------------------------
# Where a fault of the labels' place or order is seen itself, it comes before the lack of signal that follows from it.
WITHIN = "labels permuted within cell types"
ASSEMBLY, SHIFTED = "wrong assembly or chromosome naming", "labels and inputs are shifted against each other"
_ORDER = "Check the order of windows in the labels: join them to the windows by chromosome, start and cell type, and curate " \
    "again."
_DRAWN = "The dataset tells them apart: permuted labels keep the shape and the distribution of measured profiles, and " \
    "labels with signal can be fitted from the inputs."
_DATA = (
    # Before all that scores are held against: they hold nothing.
    Cause("the scores are constant", "data", "cannot tell", ("scores vary",),
          "Look at the files that the scores were made of: empty, or read on chromosomes that they do not have? Make "
          "the scores anew.", supports=("constant output", "constant tracks")),
    Cause(SHIFTED, "data", "underperforming", ("window offset",),
          "Check the assembly, the coordinate base and the order of windows in the labels; curate again.",
          supports=("label signal", "association")),
    Cause(NO_SIGNAL, "data", "collapsed", ("label signal",),
          "Do not tune the model. Check how the scores were made: draw scores and one input track side by side at "
          "a few loci, and check that window order, assembly and cell-type order agree.",
          supports=("labels look measured", "labels agree between cell types", "ambiguous bases", "repeated sequences",
                    "training fit", "association", "constant output", "variance ratio"),
          unless=("association", "labels look measured")),
    # Labels that follow nothing would lead astray what looks for their place or their track: asked first.
    Cause(WITHIN, "data", "collapsed", ("labels of each cell type",), _ORDER,
          supports=("label signal", "labels agree between cell types", "association")),
    Cause(ASSEMBLY, "data", "underperforming", ("assembly",),
          "Compare assembly, chromosome names and chromosome lengths of the files that are named with those of the genome; "
          "lift them over, or fetch them in the genome's assembly, and curate again.",
          supports=("label signal", "association", "ambiguous bases")),
    Cause(SHIFTED, "data", "underperforming", ("track offset",),
          "Check the assembly, the coordinate base and the read shift of the files that are named; curate again.",
          supports=("label signal", "association")),
    Cause("a track of another cell type swapped in", "data", "underperforming", ("duplicated tracks",),
          "Compare path and md5 of the named rows in the manifest, correct them and curate again."),
    # Seen in the file itself, so before what is inferred from how well tracks and labels fit.
    Cause("constant, empty or missing tracks", "data", "underperforming", ("constant tracks",),
          "Replace the named files, or take them out of the manifest: a missing assay is handled, a zero one is not."),
    Cause("constant, empty or missing tracks", "data", "underperforming", ("missing tracks",),
          "Give at least one mark or TF of the cell types that are named: without any, predictions rest on sequence, "
          "expression and the locus average alone.",
          supports=("follows its own cell type", "locus-average residual", "skill over the locus average")),
    Cause("an input is the label (leak)", "data", "cannot tell", ("label leak",),
          "Take the named track out of the inputs: with it the scores say nothing about unseen cell types."),
    Cause("the predictions are the scores", "data", "cannot tell", ("predictions are not the scores",),
          "Check that the column predicted_score is what the model gave, and that no input is made of the scores: as "
          "they are, the predictions say nothing about unseen rows.", supports=("label leak", "training fit")),
    Cause("labels permuted between cell types", "data", "underperforming", ("labels in their cell type",),
          "Check the order of cell types in the labels against the manifest, correct it and curate again.",
          supports=("cell-type signal", "locus-average residual")),
    Cause("a track of another cell type swapped in", "data", "underperforming", ("swapped tracks",),
          "Compare the named rows of the manifest with their source, correct them and curate again.",
          supports=("cell-type signal", "locus-average residual")),
    Cause(NO_SIGNAL, "data", "collapsed", ("score follows its profile", "labels look measured"),
          "Make the scores anew: each must be the mean of its own accessibility profile."),
    Cause(WITHIN, "data", "collapsed", ("score follows its profile",),
          "Check the order of windows and cell types in the scores: each must be the mean of its own profile.",
          supports=("label signal", "association")),
    # Whatever the predictions are like: with windows out of order in all cell types alike, the locus average still fits.
    Cause(WITHIN, "data", "collapsed", ("label signal",), _ORDER,
          supports=("labels agree between cell types", "training fit", "association", "constant output")),
    # At every window in another order: what cell types share is left, and nothing of their own.
    Cause("labels permuted between cell types", "data", "collapsed", ("cell-type signal",),
          "Check the order of cell types in the labels, window by window, and curate again.",
          supports=("follows its own cell type", "locus-average residual", "variation across cell types"),
          unless=("follows its own cell type",)),
    # From the table alone: what is measured at a locus in other cell types foretells much of it in one more. Scores
    # with nothing in common may also be sound ones of cell types that have nothing in common, and the model at fault.
    Cause(NO_SIGNAL, "data", "collapsed", ("labels agree between cell types", "training fit"),
          "Do not tune the model. Give the dataset as well, and draw scores and one input track side by side at a few loci.",
          supports=("association", "constant output", "variance ratio"), unless=("label signal",),
          alternatives=(WITHIN, OF_THE_MODEL), separated_by=_DRAWN),
    Cause(NO_SIGNAL, "data", "collapsed", ("labels agree between cell types", "association"),
          "Do not tune the model. Give the dataset as well, and draw scores and one input track side by side at a few loci.",
          supports=("training fit", "constant output", "variance ratio"), unless=("label signal", "training fit"),
          alternatives=(WITHIN, OF_THE_MODEL), separated_by=_DRAWN),
    Cause("sequences are mostly N or repeated", "data", "underperforming", ("ambiguous bases",),
          "Check the FASTA and its chromosome names: windows without sequence must be dropped in curation.",
          supports=("repeated sequences",)),
    Cause("sequences are mostly N or repeated", "data", "underperforming", ("repeated sequences",),
          "Drop repeated windows in curation and check how windows were drawn."),
    Cause("scale mismatch between cell types", "data", "underperforming", ("score scale",),
          "Check that all scores are in the same unit (fold change, counts, depth-normalised) and curate again.",
          supports=("variance ratio", "track scale")),
    Cause("scale mismatch between cell types", "data", "underperforming", ("track scale",),
          "Check that the named tracks are in the same unit in every cell type and curate again."),
)

# A prediction that is a feature of the input, such as GC, fits the scores badly whatever the training was like: asked
# before the training is blamed for the bad fit.
_SHORTCUT = (
    Cause("shortcut through GC content", "generalisation", "underperforming", ("GC shortcut",),
          "Draw GC-matched negatives, and judge the model within GC strata.",
          supports=("dead modality",)),
    Cause("shortcut through peak shape", "generalisation", "underperforming", ("shape shortcut",),
          "Train on tiled windows as well as on called peaks, or shift windows at random (shift_bins), and judge again.",
          supports=("dead modality",)),
)

# --- faults of the training ------------------------------------------------------------------------------------
# What the steps did comes first, then which checkpoint was taken of them: a training that was thrown off leaves no
# checkpoint worth comparing. What a step did is the more specific the earlier it stands.
_STEPS = "Train again with warm-up at the same learning rate: where the loss jumps again, the rate itself is too high."
_OPTIMISATION = (
    Cause("early divergence without warm-up", "optimisation", "underperforming", ("no warm-up", "early loss spike"),
          "Let the learning rate rise linearly over the first twentieth of the steps, clip gradients at 1, train again.",
          supports=("updates too large", "exploding gradients", "divergence", "learned since initialisation"),
          alternatives=("learning rate too high",), separated_by=_STEPS),
    Cause("learning rate too high", "optimisation", "underperforming", ("updates too large",),
          "Lower the learning rate until a step changes the weights by a hundredth or less, and train again.",
          supports=("early loss spike", "exploding gradients", "divergence", "learned since initialisation")),
    Cause("exploding gradients", "optimisation", "underperforming", ("exploding gradients",),
          "Check initialisation, normalisation layers and loss scale; clip gradients at 1 and use warm-up.",
          supports=("divergence", "first loss", "loss at initialisation", "learned since initialisation")),
    # A loss that ended high, and no more: the history does not say what the steps were like.
    Cause("learning rate too high", "optimisation", "collapsed", ("divergence",),
          "Lower the learning rate, add warm-up, keep gradient clipping on, and train again.",
          supports=("exploding gradients", "constant output"),
          alternatives=("early divergence without warm-up", "exploding gradients"),
          separated_by="A history with the columns train_loss_first, train_loss_max, learning_rate_first, grad_norm_max and "
          "update_<branch> tells them apart."),
    Cause("predictions are not numbers", "optimisation", "collapsed", ("finite predictions",),
          "Look for NaN in the inputs and in the training losses; predict again from the best checkpoint.",
          supports=("divergence",)),
    Cause("wrong checkpoint evaluated", "optimisation", "cannot tell", ("model reproduces predictions",),
          "Predict again with the checkpoint that is to be judged, then run this diagnosis again.",
          supports=("checkpoint matches history",)),
    Cause("wrong checkpoint evaluated", "optimisation", "cannot tell", ("checkpoint of the best epoch",),
          "Predict again with the checkpoint of the best epoch, then run this diagnosis again.",
          supports=("checkpoint matches history", "learned since initialisation")),
    Cause("wrong checkpoint evaluated", "optimisation", "cannot tell", ("checkpoint matches history",),
          "Predict again with the checkpoint of the best epoch, then run this diagnosis again.",
          only_without=("checkpoint of the best epoch",)),
    Cause("vanishing gradients", "optimisation", "underperforming", ("vanishing gradients",),
          "Check initialisation, normalisation layers and saturated units on the way from the loss.",
          supports=("first loss", "updates too small", "learned since initialisation", "single-batch overfit")),
    Cause("learning rate too low", "optimisation", "underperforming", ("updates too small",),
          "Raise the learning rate until a step changes the weights by a thousandth or so, and train again.",
          supports=("first loss", "learned since initialisation", "training fit")),
    Cause("loss terms out of balance", "optimisation", "underperforming", ("loss balance",),
          "Lower the weights of the other terms until they pull at the tokens no more than the score does.",
          supports=("first loss", "learned since initialisation")),
    # Without the sizes of the steps: gradients there were, and they led nowhere.
    Cause("learning rate too low", "optimisation", "collapsed", ("first loss", "training fit"),
          "The labels can be learned from the inputs, so raise the learning rate, and check "
          "that every parameter is trained, and that one batch can be overfitted.",
          supports=("constant output", "vanishing gradients", "label signal")),
    Cause("training stopped too early", "optimisation", "underperforming", ("still improving",),
          "Train for more epochs, and let the learning rate decay to its end."),
)

# --- faults of the model ---------------------------------------------------------------------------------------
# What is seen inside comes before what it does to the predictions: a dead head explains predictions that are constant or
# repeat the locus average, and not the other way round.
_MODEL = (
    Cause("saturated head", "model", "underperforming", ("saturated head",),
          "Look at the bias and the input of the head's hidden layer: its units give nothing. Start the head anew.",
          supports=("constant output", "variance ratio", "single-batch overfit", "locus-average residual")),
    Cause("attention entropy collapsed", "model", "underperforming", ("attention collapsed",),
          "Normalise queries and keys, lower the learning rate, or add weight decay on their projections.",
          supports=("tokens made alike", "effective rank")),
    Cause("attention uniform", "model", "underperforming", ("attention uniform",),
          "Look at the query and key projections: do they get a gradient, and are they far from zero?",
          supports=("tokens made alike", "learned since initialisation")),
    Cause("tokens made alike with depth", "model", "underperforming", ("tokens made alike",),
          "Fewer layers, larger residual branch, or pre-norm blocks keep tokens apart."),
    Cause("embeddings of low effective rank", "model", "underperforming", ("effective rank",),
          "Check normalisation and dropout before the head; a wider loss (profile, label) keeps more directions."),
    Cause(TURNED, "data", "underperforming", ("sign of predictions",),
          "Check the sign of the scores and of the predictions, such as which of two samples is divided by the other in a "
          "log ratio; turn one of them round, then run this diagnosis again.",
          supports=("association", "training fit", "association in each cell type")),
    Cause("constant output", "model", "collapsed", ("constant output",),
          "Check the score head for saturation and zero gradients, and whether one batch can be overfitted.",
          supports=("variance ratio", "training fit", "effective rank", "tokens made alike", "single-batch overfit")),
    Cause(NOTHING_LEARNED, "model", "collapsed", ("training fit",),
          "Give the dataset and the training history as well: they tell labels without signal from a model fault.",
          supports=("variance ratio", "association", "constant output", "effective rank")),
)

# From here on a cause rests on how well the unseen rows are predicted, so there must be enough of them.
_POWER = (
    Cause(NO_UNSEEN, "generalisation", "cannot tell", ("unseen rows",),
          "Give the predictions of cell types and chromosomes that were not trained on: how well the others are fitted "
          "does not say what was learned."),
    Cause(TOO_FEW, "generalisation", "cannot tell", ("power",),
          "Evaluate on more windows and cell types: the sentence says how wide the interval is now."),
)

# A gap explains what a model lacks on unseen rows; so it is asked before the model itself is blamed.
_GENERALISATION = (
    Cause("works on seen loci only", "generalisation", "underperforming", ("chromosome gap",),
          "Regularise (dropout, fewer epochs), train on more loci, and check that no chromosome is in both sets.",
          supports=("still improving",)),
    Cause("unseen cell type out of distribution", "generalisation", "underperforming",
          ("distance of unseen cell types", "cell-type gap"),
          "Add training cell types like the one that is named, or check its files: what is most unusual about it is said.",
          supports=("track scale", "missing tracks")),
    Cause("unseen cell type out of distribution", "generalisation", "underperforming",
          ("distance of unseen cell types", "skill over the locus average"),
          "Add training cell types like the one that is named, or check its files: what is most unusual about it is said.",
          supports=("track scale", "missing tracks", "level")),
    Cause("learned on training cell types only", "generalisation", "underperforming", ("cell-type gap",),
          "Add cell types or metadata, drop inputs that identify the cell type, and check which assays the unseen "
          "cell types lack.",
          supports=("missing tracks", "dead modality", "locus-average residual")),
)

_MODEL_UNSEEN = (
    Cause(NOTHING_LEARNED, "model", "collapsed", ("association",),
          "Give the dataset and the training history as well: they tell labels without signal from a model fault.",
          supports=("variance ratio", "constant output"),
          alternatives=(NO_SIGNAL, "a fault of the model or its training", WITHIN), separated_by=GIVE_DATASET),
    Cause("collapse to the locus average", "model", "collapsed", ("locus-average residual",),
          "The model ignores what sets this cell type apart: train without the locus prior or drop it at random, and "
          "check that marks and metadata reach the head.",
          supports=("variation across cell types", "cell-type swap", "dead modality",
                    "skill over the locus average")),
    Cause("collapse to the locus average", "model", "collapsed", ("variation across cell types",),
          "The model gives every cell type nearly the same value at a locus: check that marks and metadata reach the "
          "head, and train without the locus prior or drop it at random.",
          supports=("locus-average residual", "cell-type swap", "dead modality", "skill over the locus average")),
    Cause("collapse to the locus average", "model", "underperforming", ("cell-type swap",),
          "Check that marks and metadata reach the fusion, and that their masks are not all False.",
          supports=("variation across cell types", "dead modality")),
    Cause("a modality dominates", "model", "underperforming", ("dominating modality",),
          "Drop modalities at random in training, and look at the branches of the others: inputs, masks, gradients.",
          supports=("dead modality",)),
    # A model may leave alone what tells it nothing that the other inputs do not: DNA, where tracks say it all.
    Cause("a modality is dead", "model", "underperforming", ("dead modality", "information left"),
          "Look at the named branch: its inputs, its mask, its gradient norm; drop modalities at random in training."),
)

# What is left: the ranking is right, and what is wrong can be mended behind the model or by going on.
_LAST = (
    # Whatever could be seen inside the model explains better why it is not what its history says.
    Cause("wrong checkpoint evaluated", "optimisation", "cannot tell", ("model is of this history",),
          "The model is of another training, or was altered after it: give the history that belongs to it, or the model.",
          supports=("checkpoint matches history",)),
    Cause("predictions are not numbers", "optimisation", "underperforming", ("gaps in predictions",),
          "Look at the rows that are named: NaN in their inputs, or rows that were never predicted? The others are "
          "judged as if these were not there."),
    Cause("predictions off in level", "model", "underperforming", ("level",),
          "The order is right and the level is not: check that scores of this cell type are in the unit of the others.",
          supports=("score scale", "track scale", "skill over the locus average")),
    Cause("class-prior bias", "optimisation", "underperforming", ("class prior",),
          "Calibrate the threshold on validation rows, and weigh classes by their base rate in the loss.",
          supports=("positive rate",)),
    Cause("class-prior bias", "optimisation", "underperforming", ("positive rate",),
          "Move the log-odds by the difference that is named, and train on open and closed windows as they occur.",
          supports=("class prior",)),
    Cause("behind simpler models", "model", "underperforming", ("floor",),
          "What ridge regression or boosting read from the same inputs is there to be learned: train longer, with other "
          "learning rates, and compare the baselines of the evaluation.",
          supports=("follows its own cell type", "information left", "skill over the locus average")),
    Cause("worse than the locus average", "model", "underperforming", ("skill over the locus average",),
          "Compare with the baselines of the evaluation; the locus average alone is the better predictor here.",
          supports=("variance ratio",)),
    Cause("predictions shrunk or stretched", "model", "underperforming", ("variance ratio",),
          "The order is right and the amplitude is not: judge by ranking (AUPRC, Pearson), and recalibrate the score on "
          "cell types that were not trained on; check that scores of this cell type are in the unit of the others."),
    Cause("no other cell type to compare with", "generalisation", "cannot tell",
          ("another cell type to compare with",),
          "Give the dataset, a column average_score with the mean of the training cell types at the window, or the rows of "
          "three training cell types.", supports=("association",)),
)

CAUSES: tuple[Cause, ...] = (
    *_BELONGING, *_DATA, *_SHORTCUT, *_OPTIMISATION, *_MODEL, *_POWER, *_GENERALISATION, *_MODEL_UNSEEN, *_LAST)
ON_UNSEEN = tuple(cause for cause in (*_POWER, *_GENERALISATION, *_MODEL_UNSEEN, *_LAST)
                  if cause.name != "wrong checkpoint evaluated")  # rest on how well unseen rows are predicted
