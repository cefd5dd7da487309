"""Link prediction: which entity completes (entity, relation, ?) or (?, relation, entity)?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.evaluation.ranking.metrics import HEADLINE, HEADLINE_MRR
from mkgformer_kedro.evaluation.ranking.tables import members
from mkgformer_kedro.parameters import Parameters
from mkgformer_kedro.training.negatives import Negatives
from mkgformer_kedro.training.parameters import FinetuningParameters, TrainSubset
from mkgformer_kedro.training.prompts import PromptBuilder, PromptForm
from mkgformer_kedro.training.queries import Queries, dev_scores, part_of_graph
from mkgformer_kedro.training.sampler import BatchSampler
from mkgformer_kedro.training.tasks.base import Task
from mkgformer_kedro.training.tasks.questions import check_columns, is_text, read_rows, wrong

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from mkgformer_kedro.evaluation.ranking import RankingEvaluation
    from mkgformer_kedro.evaluation.report import Layout


class SampledSoftmax(Parameters):
    """Entities that stand for all others in the cross-entropy."""

    negatives: int = Field(ge=1)
    uniform: float = Field(gt=0, le=1)


class LinkPredictionParameters(FinetuningParameters):
    """Stage 2: predict the missing entity of a query."""

    preset_values: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "corrected": {"prompt": "paper", "item": "query", "shuffle": True, "entity_encoder": True},
        "faithful": {
            "prompt": "authors",
            "item": "triple",
            "shuffle": False,
            "entity_encoder": False,
        },
    }

    prompt: Literal["paper", "authors"] | None
    loss: Literal["binary_cross_entropy", "cross_entropy"]
    label_smoothing: float = Field(ge=0, lt=1)
    answer_exponent: float = Field(ge=0, le=1)
    sampled_softmax: SampledSoftmax | None
    half_precision_entities: bool
    item: Literal["query", "triple"] | None
    shuffle: bool | None
    queries_per_entity: int = Field(ge=1)
    dev_queries: int | None = Field(ge=1)
    entity_encoder: bool | None

    @model_validator(mode="after")
    def _samples_a_softmax(self) -> Self:
        if self.sampled_softmax is not None and self.loss != "cross_entropy":
            raise ValueError(f"sampled_softmax needs the loss cross_entropy, not {self.loss}")
        if self.half_precision_entities and (self.sampled_softmax is None or self.processes > 1):
            raise ValueError("half_precision_entities needs sampled_softmax, and a single process")
        return self


@dataclass(frozen=True)
class EncodedQueries(Queries):
    """Queries, and what the model is shown of them.

    Attributes:
        owners: ``(n,)`` owner of the images that are seen: the known entity.
        prompts: Builder of the model's prompts.
        negatives: What stands for all other entities in the loss; None: they do themselves.
    """

    owners: np.ndarray
    prompts: PromptBuilder
    negatives: Negatives | None = None

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each query's prompt, ``(n,)``."""
        return self.prompts.query_lengths(self.entity, self.relation)

    def batch(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """The model's inputs but the images; ``labels`` are ``(B, most answers)``, padded -100.

        With negatives they are places among ``candidates``, see :class:`Negatives`.
        """
        import torch

        arrays = self.prompts.queries(self.is_tail[rows], self.entity[rows], self.relation[rows])
        if self.answers is not None:
            arrays["labels"] = self.answers.padded(rows, -100)
            if self.negatives is not None:
                arrays |= self.negatives.candidates(arrays["labels"], rows)
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


# How the literature spells structural experts, which are named as PyKEEN names them.
_AS_PUBLISHED = {
    "complex": "ComplEx",
    "distmult": "DistMult",
    "rescal": "RESCAL",
    "rotate": "RotatE",
    "transe": "TransE",
    "tucker": "TuckER",
}


@dataclass(frozen=True)
class LinkPrediction(Task):
    """The task, what the model's entity and relation tokens stand for, and its prompts.

    Attributes:
        entities: Table ``entities``; row ``i`` is entity token ``i``.
        relations: Table ``relations``; row ``i`` is relation token ``i``.
        prompt: Form of the prompts the model was trained on.
        max_length: Longest prompt in tokens.
    """

    name: ClassVar[str] = "link_prediction"
    parameters_class: ClassVar[type[FinetuningParameters]] = LinkPredictionParameters
    inputs: ClassVar[tuple[str, ...]] = ("entity_model", "queries")
    items: ClassVar[str] = "queries"
    kept_tables: ClassVar[tuple[str, ...]] = ("entities", "relations")
    starts_from: ClassVar[str | None] = "entity_model"
    dev_metric: ClassVar[str] = HEADLINE_MRR
    scored: ClassVar[str] = "filtered, both directions"
    columns: ClassVar[Mapping[str, str]] = {
        "MRR": HEADLINE_MRR,
        "Hits@1": f"{HEADLINE}hits_at_1",
        "Hits@3": f"{HEADLINE}hits_at_3",
        "Hits@10": f"{HEADLINE}hits_at_10",
        "mean rank": f"{HEADLINE}arithmetic_mean_rank",
    }
    stages: ClassVar[Mapping[str, str]] = {
        "ingestion": "mkgformer_kedro.pipelines.ingestion.link_prediction",
        "image_association": "mkgformer_kedro.pipelines.image_association.link_prediction",
        "entity_modeling": "mkgformer_kedro.pipelines.entity_modeling.nodes",
        "structure_modeling": "mkgformer_kedro.pipelines.structure_modeling.nodes",
        "finetuning": "mkgformer_kedro.pipelines.finetuning.nodes",
        "mixture": "mkgformer_kedro.pipelines.mixture.nodes",
        "evaluation": "mkgformer_kedro.pipelines.evaluation.nodes",
    }
    tables: ClassVar[tuple[str, ...]] = ("triples", "entities", "relations", "queries")
    experts: ClassVar[tuple[str, ...]] = ("structure_models", "mixture")
    reports: ClassVar[tuple[str, ...]] = ("calibration_report",)

    question: ClassVar[tuple[str, ...]] = ("entity", "relation", "direction")
    owner: ClassVar[str] = "entity"

    entities: pd.DataFrame
    relations: pd.DataFrame
    prompt: PromptForm
    max_length: int

    @classmethod
    def from_parameters(
        cls, tables: Mapping[str, pd.DataFrame], parameters: LinkPredictionParameters
    ) -> Self:
        """The task as the parameters describe it."""
        return cls(
            tables["entities"], tables["relations"], parameters.prompt, parameters.max_length
        )

    @classmethod
    def model_class(cls) -> Any:
        """``MKGformerForLinkPrediction``."""
        from mkgformer_kedro.modeling import MKGformerForLinkPrediction

        return MKGformerForLinkPrediction

    def configuration(self, parameters: LinkPredictionParameters) -> dict[str, Any]:
        """What is minimised."""
        return {
            name: getattr(parameters, name)
            for name in ("loss", "label_smoothing", "answer_exponent")
        }

    def configure(self, model: Any, parameters: LinkPredictionParameters) -> None:
        """With entities in half precision, where the parameters say so."""
        super().configure(model, parameters)
        if parameters.half_precision_entities:
            model.halve_entities()

    def fits(self, config: Any) -> bool:
        """Whether a model of this configuration has so many entities and relations."""
        sizes = len(self.entities), len(self.relations)
        return sizes == (config.num_entities, config.num_relations)

    def prompt_builder(self, tokenizer: PreTrainedTokenizerBase, config: Any) -> PromptBuilder:
        """Build prompts whose entity and relation tokens are those of the model of ``config``."""
        return PromptBuilder(
            tokenizer,
            self.entities["text"].tolist(),
            self.relations["text"].tolist(),
            entity_token_start=config.entity_token_start,
            relation_token_start=config.relation_token_start,
            form=self.prompt,
            max_length=self.max_length,
            pad_to_max_length=not config.mask_prefix_padding,
        )

    def encode(
        self, table: pd.DataFrame, tokenizer: PreTrainedTokenizerBase, config: Any
    ) -> EncodedQueries:
        """Queries with their prompts, and their answers where they have any."""
        owners = table["entity"].to_numpy(np.int64)
        prompts = self.prompt_builder(tokenizer, config)
        return EncodedQueries.from_frame(table, owners=owners, prompts=prompts)

    @classmethod
    def restrict_train(
        cls, tables: Mapping[str, pd.DataFrame], subset: TrainSubset, seed: int
    ) -> dict[str, pd.DataFrame]:
        """So many triples of each relation, or a share of the triples."""
        return part_of_graph(tables, subset, seed)

    def sampler(
        self,
        items: EncodedQueries,
        rows: np.ndarray,
        parameters: LinkPredictionParameters,
        seed: int,
    ) -> BatchSampler:
        """Batches of train queries; ``item: triple`` repeats a query once for each answer."""
        if parameters.item == "triple":
            rows = np.repeat(rows, items.answers.lengths_of(rows))
        return BatchSampler(
            rows,
            items.owners,
            items.lengths,
            batch_size=parameters.batch_size,
            items_per_owner=parameters.queries_per_entity,
            shuffle=bool(parameters.shuffle),
            seed=seed,
        )

    def learned(
        self,
        items: EncodedQueries,
        rows: np.ndarray,
        parameters: LinkPredictionParameters,
        seed: int,
    ) -> EncodedQueries:
        """With negatives, where the softmax is a sampled one."""
        sampled = parameters.sampled_softmax
        if sampled is None:
            return items
        negatives = Negatives.by_popularity(
            items.answers.flat(rows)[1],
            len(self.entities),
            draws=sampled.negatives,
            uniform=sampled.uniform,
            seed=seed,
        )
        return replace(items, negatives=negatives)

    def lookup_weights(
        self, model: Any, parameters: LinkPredictionParameters
    ) -> list[torch.nn.Parameter]:
        """With the entities, where the softmax is a sampled one."""
        sampled = parameters.sampled_softmax is not None
        return model.lookup_weights() + (model.entity_weights() if sampled else [])

    def dev_rows(
        self, rows: np.ndarray, parameters: LinkPredictionParameters, seed: int
    ) -> np.ndarray:
        """As many of the dev queries as the parameters say, drawn once."""
        size = parameters.dev_queries
        if size is None or size >= len(rows):
            return rows
        return np.sort(np.random.default_rng(seed).choice(rows, size, replace=False))

    def finish(
        self,
        model: Any,
        items: EncodedQueries,
        rows: np.ndarray,
        images: Any,
        parameters: LinkPredictionParameters,
        seed: int,
    ) -> None:
        """Fit the encoder of entities, which gives those that train lacks their embeddings."""
        from mkgformer_kedro.training.entity_encoder import embed_unseen

        if parameters.entity_encoder:
            known = members(items.entity[rows], len(self.entities))
            embed_unseen(model, items.prompts, images, known, parameters.dev_batch_size, seed)

    def asked_at_a_time(self, most: int) -> int:
        """As many as scores of all entities fit into memory for."""
        from mkgformer_kedro.evaluation.ranking.ranks import rows_at_a_time

        return rows_at_a_time(most, len(self.entities))

    def decode(
        self, model: Any, outputs: Any, items: EncodedQueries, rows: np.ndarray, table: pd.DataFrame
    ) -> pd.DataFrame:
        """Filtered ranks of all answers of a block: what ``ranking_metrics`` needs, a row each."""
        return pd.DataFrame(items.ranks(rows, outputs.logits.float()))

    def decode_all(
        self,
        model: Any,
        blocks: Iterable[tuple[np.ndarray, Any]],
        items: EncodedQueries,
        rows: np.ndarray,
        table: pd.DataFrame,
    ) -> pd.DataFrame:
        """Filtered ranks of all answers, for which memory is taken once."""
        return items.all_ranks(rows, ((block, outputs.logits.float()) for block, outputs in blocks))

    def tokens(
        self,
        tokenizer: PreTrainedTokenizerBase,
        items: EncodedQueries,
        row: int,
        best: np.ndarray,
    ) -> tuple[list[str], dict[str, np.ndarray]]:
        """Of interest are the mask and the relation's words."""
        entity, relation = int(items.entity[row]), int(items.relation[row])
        prompt, places = items.prompts.query(bool(items.is_tail[row]), entity, relation)
        names = tokenizer.convert_ids_to_tokens(prompt.tolist())
        for place in places.pop("entity"):
            names[place] = self.entities["name"].iat[entity]
        names[places["relation"][-1]] = self.relations["relation"].iat[relation]
        return names, places

    def dev_scores(self, table: pd.DataFrame, decoded: pd.DataFrame) -> dict[str, float]:
        """Metrics of both directions and realistic ranks, as PyKEEN names them."""
        return dev_scores(decoded)

    @classmethod
    def predict_baseline(cls, tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
        """Popularity."""
        from mkgformer_kedro.evaluation.ranking.baselines import predict_popularity

        return predict_popularity(tables)

    @classmethod
    def evaluate(
        cls, predictions: pd.DataFrame, tables: Mapping[str, pd.DataFrame], **options: Any
    ) -> RankingEvaluation:
        """Ranks of all experts."""
        from mkgformer_kedro.evaluation.ranking import evaluate
        from mkgformer_kedro.evaluation.ranking.evaluation import NAMES

        return evaluate(predictions, tables, names={**NAMES, **_AS_PUBLISHED}, **options)

    @cached_property
    def _entity_rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.entities["entity"])}

    @cached_property
    def _relation_rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.relations["relation"])}

    def read_questions(self, table: pd.DataFrame) -> pd.DataFrame:
        """Queries by the ids of ``entity`` and ``relation``; without a direction ``tail`` is meant.

        Raises:
            DataError: An id is not known, or a direction is neither ``tail`` nor ``head``.
        """
        check_columns(table, ("entity", "relation"))
        direction = table.get("direction", pd.Series("tail", index=table.index))
        read = pd.DataFrame(
            {
                "direction": direction.astype(object).fillna("tail"),
                "entity": read_rows(table, "entity", self._entity_rows),
                "relation": read_rows(table, "relation", self._relation_rows),
            },
            index=table.index,
        )
        for index, direction in read["direction"].items():
            if not isinstance(direction, str) or direction not in ("tail", "head"):
                remedy = "'tail' asks (entity, relation, ?), 'head' asks (?, relation, entity)."
                raise wrong(index, f"the direction is {direction!r}", remedy)
        return read

    def read_entities(self, table: pd.DataFrame) -> pd.DataFrame:
        """New entities, as rows of the table ``entities``.

        Raises:
            DataError: There are none, a column is missing or unknown, an id is known already, given
                twice or has blanks around it, or a name or text is empty. Each mistake is named.
        """
        columns = ["entity", "name", "text"]
        check_columns(table, columns, columns, of=("entities", "an entity"))
        problems = []
        known, given = set(self.entities["entity"]), set[str]()
        for index, *values in table[columns].itertuples(name=None):
            for name, value in zip(columns, values, strict=True):
                if not is_text(value):
                    what = f"{name} is {value!r}, no text or an empty one"
                    remedy = "Give a text in UTF-8, without NUL characters."
                    problems.append(Problem(f"entity {index}", None, what, remedy))
            if not is_text(entity := values[0]):
                continue
            problem = None
            if entity in known:
                problem = f"the model has an entity '{entity}' already", "Leave it out."
            elif entity in given:
                problem = f"'{entity}' is given twice", "Give it once."
            elif entity != entity.strip():
                problem = f"'{entity}' has blanks around it", "Take them away: no file keeps them."
            if problem:
                problems.append(Problem(f"entity {index}", None, *problem))
            given.add(entity)
        if problems:
            raise DataError(problems)
        return table[columns].assign(text_source="long")

    def reply(
        self,
        model: Any,
        outputs: Any,
        items: EncodedQueries,
        rows: np.ndarray,
        table: pd.DataFrame,
        top: int,
    ) -> pd.DataFrame:
        """``entity``, ``name`` and ``score`` of the ``top`` best entities, best first."""
        from mkgformer_kedro.evaluation.ranking.ranks import best_entities

        return self.name_answers(*best_entities(outputs.logits.float(), top), table)

    def name_answers(
        self, entities: torch.Tensor, scores: torch.Tensor, table: pd.DataFrame
    ) -> pd.DataFrame:
        """``entity``, ``name`` and ``score`` of the entities ``(b, top)`` for ``b`` questions."""
        found = self.entities.iloc[entities.flatten().cpu().numpy()][["entity", "name"]]
        index = table.index.repeat(entities.shape[1])
        return found.assign(score=scores.flatten().cpu().numpy()).set_index(index)

    @classmethod
    def layout(cls) -> Layout:
        """Ranks, and the best guesses."""
        from mkgformer_kedro.evaluation.report.ranking import LINK_PREDICTION

        return LINK_PREDICTION
