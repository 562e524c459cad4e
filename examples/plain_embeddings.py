"""The method on embeddings of any kind: `python examples/plain_embeddings.py`."""

from sklearn.datasets import load_wine
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lookalike import PrototypeClassifier

Z, y = load_wine(return_X_y=True)
search = GridSearchCV(
    make_pipeline(StandardScaler(), PrototypeClassifier()),
    {"prototypeclassifier__n_prototypes": [1, 2, 3, 5], "prototypeclassifier__similarity": ["l2", "mahalanobis"]},
).fit(Z, y)
print(f"{search.best_score_:.1%} with {search.best_params_}")
model = search.best_estimator_[-1]
for row in model.survey_.to_table():
    print(f"prototype {row['prototype']} of class {row['class']}: {row['count']} samples, purity {row['purity']:.0%}")
