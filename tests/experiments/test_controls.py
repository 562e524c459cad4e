from lookalike.experiments.controls import distinguishing_figures


def test_figures_tell_models_apart_only_beyond_the_spread_of_seeds():
    def records(accuracies, divergences):
        pairs = zip(accuracies, divergences, strict=True)
        return {s: {"accuracy": a, "explanation_divergence": d} for s, (a, d) in enumerate(pairs)}

    found = {
        "kmex": records([0.97, 0.98, 0.97], [0.10, 0.12, 0.11]),
        "random-head": records([0.10, 0.12, 0.11], [0.15, 0.09, 0.11]),
        "shuffled-labels": records([0.11, 0.09], [0.20, 0.22]),
        "another-training": {},
    }
    text = distinguishing_figures("digits, small-cnn", found)
    assert "random head: accuracy;" in text
    assert "shuffled labels: accuracy, D_fth." in text
    assert distinguishing_figures("digits", {kind: dict(list(one.items())[:1]) for kind, one in found.items()}) == ""
