"""Novelty scores of others, as formulas on embeddings: k nearest neighbours, ViM, SHE and energy."""

import numpy as np
from scipy.special import logsumexp


class Rivals:
    """Four scores from training embeddings and a linear head; higher is more unfamiliar.

    - ``kNN``: distance to the k-th nearest training embedding, both normalised (Sun et al. 2022), k = 50.
    - ``ViM``: norm in the space that the training embeddings hardly use, scaled to the logits, minus their energy (Wang
      et al. 2022).
    - ``SHE``: minus the inner product with the mean embedding of the predicted class (Zhang et al. 2023).
    - ``energy``: minus the log of the sum of exponentials of the logits (Liu et al. 2020).

    Args:
        embeddings: Training embeddings [n, D].
        labels: Their classes [n].
        predictions: Classes that the classifier predicts for them [n]; SHE takes means of correct ones.
        weight: The head's weight [C, D].
        bias: The head's bias [C].
    """

    def __init__(
        self, embeddings: np.ndarray, labels: np.ndarray, predictions: np.ndarray, weight: np.ndarray, bias: np.ndarray
    ) -> None:
        self.weight, self.bias = weight, bias
        train = embeddings.astype(np.float64)
        self.bank = _normalised(train)
        self.k = min(50, max(1, len(train) // 10))
        right = labels == predictions
        self.patterns = np.stack(
            [train[right & (labels == k)].mean(0) if (right & (labels == k)).any() else train[labels == k].mean(0)
             for k in range(int(labels.max()) + 1)]
        )  # fmt: skip
        dim = train.shape[1]
        n_principal = 1000 if dim >= 2048 else 512 if dim >= 768 else dim // 2  # as its authors' code
        n_principal = min(n_principal, len(train) // 2)  # [ours] beyond their number, directions are arbitrary
        self.origin = -np.linalg.pinv(weight) @ bias
        values, vectors = np.linalg.eigh((train - self.origin).T @ (train - self.origin) / len(train))
        self.residual = vectors[:, np.argsort(-values)[n_principal:]]
        norms = np.linalg.norm((train - self.origin) @ self.residual, axis=1)
        self.alpha = (train @ weight.T + bias).max(1).mean() / norms.mean()

    def scores(self, embeddings: np.ndarray, predictions: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the scores [N] of embeddings [N, D] with predicted classes [N], by name."""
        z = embeddings.astype(np.float64)
        energy = -logsumexp(z @ self.weight.T + self.bias, axis=1)
        products = _normalised(z) @ self.bank.T
        kth = -np.partition(-products, self.k - 1, axis=1)[:, self.k - 1]
        return {
            "kNN": np.sqrt(np.maximum(2 - 2 * kth, 0)),
            "ViM": self.alpha * np.linalg.norm((z - self.origin) @ self.residual, axis=1) + energy,
            "SHE": -(z * self.patterns[predictions]).sum(1),
            "energy": energy,
        }


def _normalised(rows: np.ndarray) -> np.ndarray:
    lengths: np.ndarray = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    normalised: np.ndarray = rows / lengths
    return normalised
