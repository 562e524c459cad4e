"""Evidence without gradients: what each position of an averaged feature map adds to a prototype's lead."""

import copy

import torch
from torch import Tensor, nn

from lookalike.export.likenesses import rows_of
from lookalike.model.prototypes import Prototypes
from lookalike.model.similarity import Cosine, Dot, Similarity


class Evidence(nn.Module):
    """Divides the lead of a prototype p over its strongest rival q of another class over positions.

    If the embedding z is the average of a feature map F over positions x, then the lead is a sum, exactly:

    - distances: ‖z − q‖² − ‖z − p‖² = mean over x of 2 (p − q) · (F(x) − (p + q) / 2)
    - dot product: z · p − z · q = mean over x of F(x) · (p − q)
    - cosine: the same with p / ‖p‖ and q / ‖q‖, over ‖z‖

    For similarities that fall with a learned distance all three are in its space.

    Args:
        prototypes: The prototypes.
        similarity: The similarity; ``kind_of`` must not return None for it.
    """

    labels: Tensor
    points: Tensor

    def __init__(self, prototypes: Prototypes, similarity: Similarity) -> None:
        super().__init__()
        self.kind = kind_of(similarity)
        vectors = prototypes.vectors.detach()
        is_learned = self.kind == "distance" and type(similarity).project is not Similarity.project
        self.similarity = copy.deepcopy(similarity) if is_learned else None
        points = nn.functional.normalize(vectors, dim=1) if self.kind == "cosine" else vectors
        self.register_buffer("points", points.clone() if self.similarity is None else self.similarity.project(vectors))
        self.register_buffer("labels", prototypes.labels[:, None].clone())

    def forward(self, embeddings: Tensor, feature_map: Tensor, similarities: Tensor, nearest: Tensor) -> Tensor:
        """Returns what each position adds to the lead over the strongest rival.

        Args:
            embeddings: z [N, D].
            feature_map: F [N, D, H, W].
            similarities: To all prototypes [N, P].
            nearest: The prototypes whose leads are divided [N, k].

        Returns:
            [N, k, H, W].
        """
        is_same_class = rows_of(self.labels, nearest) == self.labels[:, 0]  # [N, k, P]
        rivals = similarities[:, None].masked_fill(is_same_class, -torch.inf).argmax(-1)
        height, width = feature_map.shape[2:]
        features = feature_map.to(self.points.dtype).flatten(2)  # [N, D, positions]
        if self.similarity is not None:
            rows = features.transpose(1, 2)
            projected: Tensor = self.similarity.project(rows.flatten(0, 1))
            features = projected.unflatten(0, rows.shape[:2]).transpose(1, 2)
        prototypes, rival_points = rows_of(self.points, nearest), rows_of(self.points, rivals)  # [N, k, D]
        direction = prototypes - rival_points
        by_position = direction @ features  # [N, k, positions]
        if self.kind == "distance":
            middle = (direction * (prototypes + rival_points)).sum(-1, keepdim=True) / 2
            by_position = (by_position - middle) * (2 / (height * width))
        else:
            by_position = by_position / (height * width)
        if self.kind == "cosine":
            by_position = by_position / embeddings.norm(dim=1).clamp_min(1e-12)[:, None, None]
        evidence: Tensor = by_position.unflatten(2, (height, width))
        return evidence


def kind_of(similarity: Similarity) -> str | None:
    """Returns how likeness is a sum over positions: by distances, products or cosines; None if it is not."""
    if similarity.orders_by_distance:
        return "distance"
    if isinstance(similarity, Dot):
        return "dot"
    return "cosine" if isinstance(similarity, Cosine) else None
