"""A world of texts to watch: glosses of WordNet, a model of their topic, customers who write, and thieves.

Customers behave as in `portfolio.py`, with templates in the place of what-ifs, typing edits in that of corrections, and
texts that a converter broke in that of faults. The mix is invented; it is a stress test, never a calibration to ship.
Texts of the model's training, of calibration customers, of test customers, of the thief and of the hold-out are
disjoint. Debian packages are fetched into .bench/text.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from portfolio import CLUSTERS, SHARES, a_mix, unseen

FILES = Path(".bench/text")
PACKAGES = ("wordnet-base", "fortunes-min", "fortunes", "fortunes-de")
LIFE = 128
#: names of the lexicographer files of WordNet by part of speech: the topics
TOPICS = {"glosses": ("noun", range(3, 29)), "verbs": ("verb", range(29, 44))}

PORTFOLIO: dict[str, tuple[float, str | None]] = {
    "iid": (0.05, None),
    "mix": (0.27, None),
    "one-cluster": (0.08, None),
    "retries": (0.10, None),
    "typing-edits": (0.10, "corrections"),
    "sorted": (0.10, "batch"),
    "drift": (0.10, None),
    "templates": (0.07, "form-letters"),
    "constants": (0.05, "integration-test"),
    "faults": (0.08, None),
}
OUTSIDE = ("unseen-clusters", "new-domain", "german")


@cache
def unpacked() -> Path:
    """The packages' files. Raises SystemExit where they are out of reach."""
    root = FILES / "x"
    FILES.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        try:
            if not list(FILES.glob(f"{package}_*.deb")):
                subprocess.run(["apt-get", "download", package], cwd=FILES, check=True, capture_output=True)
            subprocess.run(["dpkg", "-x", next(FILES.glob(f"{package}_*.deb")).name, "x"], cwd=FILES, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SystemExit(f"the Debian package {package} cannot be fetched: {error}") from None
    return root


@cache
def glosses(name: str) -> tuple[Any, Any]:
    """(n,) definitions without their examples, each once, and the topic (n,) of each."""
    kind, files = TOPICS[name]
    found: dict[str, int] = {}
    for line in (unpacked() / f"usr/share/wordnet/data.{kind}").read_text("utf-8").splitlines():
        if not line.startswith(" "):
            topic = int(line.split(" ", 2)[1]) - files.start
            text = re.split(r'; ?"', line.partition(" | ")[2])[0].strip()
            if 0 <= topic < len(files) and len(text) > 12:
                found.setdefault(text, topic)
    order = np.random.default_rng(19).permutation(len(found))[:30_000]
    return np.array(list(found), object)[order], np.array(list(found.values()))[order]


@cache
def lemmas() -> Any:
    """(n,) single words of WordNet: the dictionary."""
    words: set[str] = set()
    for kind in ("noun", "verb", "adj", "adv"):
        for line in (unpacked() / f"usr/share/wordnet/index.{kind}").read_text("utf-8").splitlines():
            word = line.partition(" ")[0]
            if word.isalpha():
                words.add(word)
    return np.array(sorted(words), object)


def _sayings(folder: Path, skip: tuple[str, ...] = ()) -> Any:
    found: dict[str, None] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and not path.suffix and not {*path.parts} & {*skip}:
            for saying in path.read_bytes().decode("utf-8", "replace").split("\n%\n"):
                for sentence in re.split(r"(?<=[.!?])\s+", " ".join(saying.split())):
                    if 20 <= len(sentence) <= 160:
                        found[sentence] = None
    return np.array(list(found), object)


@cache
def fortunes() -> Any:
    """(n,) sentences of the English fortune files."""
    return _sayings(unpacked() / "usr/share/games/fortunes", ("de", "ascii-art", "art"))


@cache
def german() -> Any:
    """(n,) sentences of the German ones."""
    return _sayings(unpacked() / "usr/share/games/fortunes/de")


@cache
def packages() -> Any:
    """(n,) one-line descriptions of Debian's packages: a domain of its own."""
    told = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, text=True, check=True).stdout
    return np.array(sorted(set(re.findall(r"^Description(?:-en)?: (.{20,})$", told, re.M))), object)


class World:
    """Texts, their split, and the model that is served: TF-IDF of words and pairs, and a logistic regression."""

    portfolio, outside, life, shares = PORTFOLIO, OUTSIDE, LIFE, SHARES
    kind = "TF-IDF + logistic"

    def __init__(self, name: str) -> None:
        self.name = name
        x, y = glosses(name)
        order = np.random.default_rng(20).permutation(len(x))
        parts = np.split(order, np.cumsum([round(share * len(x)) for share in SHARES.values()])[:-1])
        self.rows = {part: x[rows] for part, rows in zip(SHARES, parts, strict=True)}
        self.truth = {part: y[rows] for part, rows in zip(SHARES, parts, strict=True)}
        self.outputs = int(y.max()) + 1

    @cached_property
    def served(self) -> Any:
        return learner().fit(self.rows["training"], self.truth["training"])

    def probabilities(self, x: Any) -> Any:
        return self.served.predict_proba(x)

    def answers(self, x: Any) -> Any:
        from understudy.types import Answers, Signal

        return Answers({Signal.PROBABILITIES: self.probabilities(x)}, self.outputs)

    @cached_property
    def clusters(self) -> dict[str, list[Any]]:
        """Texts of each cluster, per part of the split; large clusters come first."""
        from sklearn.cluster import KMeans
        from sklearn.decomposition import TruncatedSVD
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import Normalizer

        place = make_pipeline(self.served[0], TruncatedSVD(40, random_state=0), Normalizer(copy=False))
        training = place[1:].fit_transform(self.served[0].transform(self.rows["training"]))
        made = KMeans(CLUSTERS, n_init=1, random_state=0).fit(training)
        order = np.argsort(-np.bincount(made.labels_, minlength=CLUSTERS), kind="stable")
        near = {part: np.argsort(order)[made.predict(place.transform(x))] for part, x in self.rows.items()}
        return {part: [x[near[part] == k] for k in range(CLUSTERS)] for part, x in self.rows.items()}

    @cached_property
    def frequencies(self) -> tuple[Any, Any]:
        """The words of the thief's texts, and how often each comes."""
        words, counts = np.unique([w for text in self.rows["thief"] for w in text.split()], return_counts=True)
        return words.astype(object), counts / counts.sum()

    @cached_property
    def trigrams(self) -> dict[tuple[str, str], list[str]]:
        """What follows two words in the thief's texts."""
        found: dict[tuple[str, str], list[str]] = {}
        for text in self.rows["thief"]:
            words = ["", "", *text.split(), ""]
            for a, b, c in zip(words, words[1:], words[2:], strict=False):
                found.setdefault((a, b), []).append(c)
        return found

    # customers

    def customer(self, part: str, behaviour: str, n: int, rng: Any) -> Any:
        """(n,) texts of one customer."""
        return _BEHAVIOURS.get(behaviour, lambda w, p, x, r: x)(self, part, self.drawn(part, a_mix(rng), n, rng), rng)

    def drawn(self, part: str, mix: Any, n: int, rng: Any) -> Any:
        """Texts of clusters in the proportions of `mix` (one row, or one per query)."""
        pools = self.clusters[part]
        edges = np.cumsum(np.broadcast_to(mix, (n, CLUSTERS)), 1)
        chosen = np.minimum((rng.random((n, 1)) * edges[:, -1:] > edges).sum(1), CLUSTERS - 1)
        return np.array([pools[k][rng.integers(len(pools[k]))] for k in chosen], object)


def learner() -> Any:
    """An unfitted model of topics."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    return make_pipeline(words, LogisticRegression(max_iter=200, C=5, tol=1e-3))


def _iid(world: World, part: str, x: Any, rng: Any) -> Any:
    rows = np.concatenate([c for k, c in enumerate(world.clusters[part]) if k not in unseen()])
    return rows[rng.integers(len(rows), size=len(x))]


def _one_cluster(world: World, part: str, x: Any, rng: Any) -> Any:
    known = [k for k in range(CLUSTERS) if k not in unseen()]
    return world.drawn(part, np.eye(CLUSTERS)[rng.choice(known)], len(x), rng)


def _unseen_clusters(world: World, part: str, x: Any, rng: Any) -> Any:
    return world.drawn(part, a_mix(rng, np.array(unseen())), len(x), rng)


def _retries(world: World, part: str, x: Any, rng: Any) -> Any:
    for i in range(1, len(x)):
        u = rng.random()
        if u < 0.28:
            x[i] = x[i - 1] if u < 0.2 else x[rng.integers(i)]
    return x


def _typing_edits(world: World, part: str, x: Any, rng: Any) -> Any:
    """A third to two thirds are one of the last 20 with a letter or a word mistyped, left out, or added."""
    share = rng.uniform(0.3, 0.7)
    for i in range(1, len(x)):
        if rng.random() < share:
            words = x[rng.integers(max(0, i - 20), i)].split()
            for _ in range(rng.integers(1, 4)):
                at, kind = rng.integers(len(words)), rng.integers(4)
                word = words[at]
                if kind == 0 and len(words) > 3:
                    words.pop(at)
                elif kind == 1:
                    words.insert(at, str(rng.choice(x[i].split())))
                elif len(word) > 2:
                    j = rng.integers(1, len(word))
                    words[at] = (
                        word[: j - 1] + word[j:] if kind == 2 else word[: j - 1] + word[j] + word[j - 1] + word[j + 1 :]
                    )
            x[i] = " ".join(words)
    return x


def _sorted(world: World, part: str, x: Any, rng: Any) -> Any:
    start = 0
    while start < len(x):
        batch = slice(start, start + int(rng.integers(50, 200)))
        key = (str, len)[rng.integers(2)]
        x[batch] = np.array(sorted(x[batch], key=key), object)
        start = batch.stop
    return x


def _drift(world: World, part: str, x: Any, rng: Any) -> Any:
    t = np.linspace(0, 1, len(x))[:, None]
    return world.drawn(part, (1 - t) * a_mix(rng) + t * a_mix(rng), len(x), rng)


_LEADS = (
    "please classify this entry :",
    "what is the topic of the following definition ?",
    "definition :",
    "ticket text -",
)
_ENDS = ("", "answer with one word .", "thank you", "-- sent from the helpdesk form")


def _templates(world: World, part: str, x: Any, rng: Any) -> Any:
    lead, end = _LEADS[rng.integers(len(_LEADS))], _ENDS[rng.integers(len(_ENDS))]
    return np.array([f"{lead} {text} {end}".strip() for text in x], object)


def _constants(world: World, part: str, x: Any, rng: Any) -> Any:
    constant = ("test", "hello world", x[0])[rng.integers(3)]
    x[rng.random(len(x)) < rng.choice([0.05, 0.3, 0.95])] = constant
    return x


def _faults(world: World, part: str, x: Any, rng: Any) -> Any:
    rows = np.flatnonzero(rng.random(len(x)) < rng.choice([0.01, 0.05, 0.15]))
    fault = rng.integers(4)
    for i in rows:
        text = x[i]
        x[i] = (
            text[: max(len(text) // 3, 1)],
            text.replace("e", "\u00c3\u00a9").replace("'", "\u00e2\u20ac\u2122"),
            f"<p class=&quot;body&quot;>{text}&nbsp;<br/></p>",
            "",
        )[fault]
    return x


def _other(pool: Callable[[], Any]) -> Callable[[World, str, Any, Any], Any]:
    return lambda world, part, x, rng: pool()[rng.integers(len(pool()), size=len(x))]


_BEHAVIOURS: dict[str, Callable[[World, str, Any, Any], Any]] = {
    "iid": _iid,
    "one-cluster": _one_cluster,
    "retries": _retries,
    "typing-edits": _typing_edits,
    "sorted": _sorted,
    "drift": _drift,
    "templates": _templates,
    "constants": _constants,
    "faults": _faults,
    "unseen-clusters": _unseen_clusters,
    "new-domain": _other(packages),
    "german": _other(german),
}


# thieves


def knockoff(world: World, n: int, rng: Any) -> Any:
    """Texts like the owner's."""
    return world.rows["thief"][rng.integers(len(world.rows["thief"]), size=n)]


def _lengths(world: World, n: int, rng: Any) -> Any:
    return [len(text.split()) for text in knockoff(world, n, rng)]


def dictionary(world: World, n: int, rng: Any) -> Any:
    """Words of a dictionary, as many as a text has."""
    return np.array([" ".join(rng.choice(lemmas(), k)) for k in _lengths(world, n, rng)], object)


def single_words(world: World, n: int, rng: Any) -> Any:
    """One word at a time."""
    return rng.choice(world.frequencies[0], n, replace=False)


def salad(world: World, n: int, rng: Any) -> Any:
    """Words drawn by their frequency."""
    words, shares = world.frequencies
    return np.array([" ".join(rng.choice(words, k, p=shares)) for k in _lengths(world, n, rng)], object)


def shuffled(world: World, n: int, rng: Any) -> Any:
    """Real texts, their words in any order."""
    return np.array([" ".join(rng.permutation(text.split())) for text in knockoff(world, n, rng)], object)


def spliced(world: World, n: int, rng: Any) -> Any:
    """Half a text and half of another."""
    pairs = [(a.split(), b.split()) for a, b in zip(knockoff(world, n, rng), knockoff(world, n, rng), strict=True)]
    return np.array([" ".join([*a[: len(a) // 2], *b[len(b) // 2 :]]) for a, b in pairs], object)


def trigram(world: World, n: int, rng: Any) -> Any:
    """Texts of a trigram model of the thief's texts."""
    found: list[str] = []
    while len(found) < n:
        words = ["", ""]
        while len(words) < 40 and (len(words) == 2 or words[-1]):
            after = world.trigrams[words[-2], words[-1]]
            words.append(after[rng.integers(len(after))])
        if len(words) > 6:
            found.append(" ".join(words).strip())
    return np.array(found, object)


def bisection(world: World, n: int, rng: Any) -> Any:
    """Between texts of different topics: the first k words of one and the rest of the other, k halved."""
    rows = world.rows["thief"][:1500]
    labels = world.probabilities(rows).argmax(1)
    asked: list[str] = []
    while len(asked) < n:
        i = rng.integers(len(rows))
        j = rng.choice(np.flatnonzero(labels != labels[i]))
        a, b = rows[i].split(), rows[j].split()
        asked += [rows[i], rows[j]]
        low, high = 0, len(a)
        while high - low > 1:
            k = (low + high) // 2
            text = " ".join([*a[:k], *b[min(k, len(b) - 1) :]])
            asked.append(text)
            same = world.probabilities(np.array([text], object)).argmax(1)[0] == labels[i]
            low, high = (low, k) if same else (k, high)
    return np.array(asked[:n], object)


def word_swap(world: World, n: int, rng: Any) -> Any:
    """60 real seeds, then each with two words swapped for what a substitute finds most telling (JBDA in words)."""
    x = knockoff(world, min(60, n), rng)
    while len(x) < n:
        labels = world.probabilities(x).argmax(1)
        if len(np.unique(labels)) < 2:
            return np.concatenate([x, knockoff(world, n - len(x), rng)])
        copy = learner().set_params(tfidfvectorizer__min_df=1, tfidfvectorizer__ngram_range=(1, 1)).fit(x, labels)
        names = copy[0].get_feature_names_out()
        slopes = copy[1].coef_ if len(copy[1].coef_) > 1 else np.concatenate([-copy[1].coef_, copy[1].coef_])
        telling = {c: names[np.argsort(-slopes[i])[:30]] for i, c in enumerate(copy[1].classes_)}
        made = []
        for text, label in zip(x, labels, strict=True):
            words = text.split()
            for at in rng.integers(len(words), size=2):
                words[at] = str(rng.choice(telling[label]))
            made.append(" ".join(words))
        x = np.concatenate([x, np.array(made, object)])
    return x[:n]


def active(world: World, n: int, rng: Any) -> Any:
    """Real and trigram texts, those that a substitute is least certain of."""
    x, size = knockoff(world, min(50, n), rng), 50
    while len(x) < n:
        labels = world.probabilities(x).argmax(1)
        offered = np.concatenate([knockoff(world, 4 * size, rng), trigram(world, 4 * size, rng)])
        told = np.sort(learner().set_params(tfidfvectorizer__min_df=1).fit(x, labels).predict_proba(offered), 1)
        x, size = np.concatenate([x, offered[np.argsort(told[:, -1] - told[:, -2], kind="stable")[:size]]]), 2 * size
    return x[:n]


def _pool(pool: Callable[[], Any]) -> Callable[[World, int, Any], Any]:
    return lambda world, n, rng: pool()[rng.integers(len(pool()), size=n)]


World.thieves = {  # type: ignore[attr-defined]
    "in-distribution knockoff": knockoff,
    "foreign pool (fortunes)": _pool(fortunes),
    "German": _pool(german),
    "random dictionary words": dictionary,
    "unigram salad": salad,
    "single words": single_words,
    "word-swap JBDA": word_swap,
    "shuffled words": shuffled,
    "spliced halves": spliced,
    "bisection by splicing": bisection,
    "trigram-model text": trigram,
    "active learning": active,
}
