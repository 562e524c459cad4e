"""What ``lookalike convert`` prints: for people, and as JSON."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lookalike._core.wording import counted
from lookalike.cli.console import out, percent, print_facts, print_line, print_notes, print_table

if TYPE_CHECKING:
    from lookalike.data import DataBundle
    from lookalike.metrics import Comparison
    from lookalike.model import PrototypeModel

_LISTED_CLASSES = 30
_LISTED_SKIPPED = 20


def report_of(
    model: "PrototypeModel",
    bundle: "DataBundle",
    comparison: "Comparison | None",
    skipped: list[str],
    output: Path,
) -> dict[str, Any]:
    """Returns the result as JSON values."""
    return {
        "output": str(output),
        "test": comparison.to_dict() if comparison else None,
        "provenance": model.provenance,
        "preprocessing": model.preprocessing.to_dict() if model.preprocessing else None,
        "images_as": model.preprocessing.describe() if model.preprocessing else None,
        "prototypes": model.prototypes.to_table(),
        "skipped": skipped,
        "notes": [*bundle.notes, *_notes_of(model), *(comparison.notes if comparison else ())],
        "passed_over": bundle.passed_over.to_dict(),
    }


def _notes_of(model: "PrototypeModel") -> list[str]:
    """Returns notes about the probabilities."""
    note = (model.provenance.get("calibration") or {}).get("note")
    return [note] if note else []


def _facts_of_conversion(model: "PrototypeModel") -> dict[str, str]:
    """Returns facts about temperature, precision and clustering in parts, if they apply."""
    provenance, facts = model.provenance, {}
    calibration = provenance.get("calibration") or {}
    if calibration.get("source") == "fitted":
        n_samples, kind = calibration["n_samples"], "patches" if model.has_patches else "images"
        facts["probabilities"] = (
            f"temperature {calibration['value']:.3g}, fitted to {n_samples:,} held-out training {kind}"
        )
    elif calibration:
        facts["probabilities"] = f"temperature {calibration['value']:.3g}, {calibration['source']}"
    effect = provenance.get("precision_effect")
    if effect:
        same = percent(effect.get("same_predictions"))
        compared = f"{counted(int(effect['rows']), 'image')} compared"
        facts["embedded in"] = f"{provenance['precision']}: of {compared}, {same} keep their prediction"
    if provenance.get("clustered_in_parts"):
        facts["clustered in parts"] = ", ".join(provenance["clustered_in_parts"][:_LISTED_CLASSES])
    return facts


def _where_cut(model: "PrototypeModel") -> dict[str, str]:
    """Says at which layer the network is cut; of a network without a head, what its embedding is."""
    head, embedding = (getattr(model.encoder, name, None) for name in ("head_name", "embedding_from"))
    return {"embedding": str(embedding)} if head is None and embedding else {"cut before": str(head or "nothing")}


def show_conversion(
    model: "PrototypeModel",
    bundle: "DataBundle",
    comparison: "Comparison | None",
    skipped: list[str],
    output: Path,
) -> None:
    """Prints the result for people."""
    prototypes = model.prototypes
    rows = []
    for k, name in enumerate(prototypes.class_names[:_LISTED_CLASSES]):
        of_class = (prototypes.labels == k).cpu()
        purity = prototypes.purity.cpu()[of_class]
        known = purity[~purity.isnan()].tolist()  # none of a class that owns no prototype, or only unused ones
        cells = [
            str(int(of_class.sum())),
            f"{int(prototypes.counts.cpu()[of_class].sum()):,}",
            percent(min(known, default=None)),
        ]
        rows.append([name, *cells])
    samples = "training patches" if model.has_patches else "training images"
    print_table("Prototypes", ["class", "prototypes", samples, "lowest purity"], rows)
    if len(prototypes.class_names) > _LISTED_CLASSES:
        out.print(f"… and {len(prototypes.class_names) - _LISTED_CLASSES} more classes", style="dim")
    facts = {
        "images as": model.preprocessing.describe() if model.preprocessing else "given",
        **_where_cut(model),
        "converted in": f"{model.provenance['convert_seconds']:.1f} s",
    }
    if comparison is not None:
        facts["test images"] = f"{comparison.n_samples:,}"
        facts["accuracy"] = percent(comparison.accuracy)
        if comparison.black_box_accuracy is not None:
            facts["black box"] = percent(comparison.black_box_accuracy)
            facts["agreement"] = percent(comparison.agreement)
        elif getattr(model.encoder, "head_name", None) is None:
            facts["black box"] = "none: the network is an encoder without a head"
        else:
            facts["black box"] = "not compared with" + (
                " (see the note)" if comparison.tells_why else ": there is none"
            )
    facts |= _facts_of_conversion(model)
    facts["saved to"] = str(output)
    print_facts("", facts)
    print_notes([*bundle.notes, *_notes_of(model), *(comparison.notes if comparison else ())])
    if skipped:
        out.print(f"\nSkipped {counted(len(skipped), 'image')} that could not be read:", style="yellow")
        for message in skipped[:_LISTED_SKIPPED]:
            print_line(message, "  ")
        if len(skipped) > _LISTED_SKIPPED:
            out.print(f"  … and {len(skipped) - _LISTED_SKIPPED} more")
