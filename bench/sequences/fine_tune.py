"""A text classifier of MiniLM's shape (6 layers, width 384, 30,522 words), fine-tuned by the Trainer of transformers,
and by peft. Its weights are random at first, as nothing can be downloaded; what it learns is which module of the
standard library a piece of source is from.

The vocabulary is that of the whole library, the examples are few: most rows of the embedding never get a gradient, as
in any fine-tuning.
"""

import copy
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

_VOCABULARY = 30_522
_EXAMPLES = 2_000
_TOKENS = 64
_BATCH = 8
_LORA_BATCH = 4
_WARM_UP_STEPS = 100
_APART_STEPS = 50
_VERSIONS = 9
_MODULES = ("asyncio", "email", "json", "unittest", "xml", "multiprocessing", "importlib", "tkinter")

Keep = Callable[[str, int], Path]


def make_fine_tune(keep: Keep) -> None:
    """Run the Trainer; its checkpoint folders are the versions."""
    import transformers

    torch.manual_seed(0)
    tokenizer = _make_tokenizer()
    scratch = keep("scratch", 0)
    arguments = transformers.TrainingArguments(
        output_dir=str(scratch),
        max_steps=_WARM_UP_STEPS + (_VERSIONS - 1) * _APART_STEPS,
        per_device_train_batch_size=_BATCH,
        learning_rate=2e-5,
        save_steps=_APART_STEPS,
        logging_steps=_APART_STEPS,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
    )
    transformers.Trainer(
        _make_model(), arguments, train_dataset=_make_examples(tokenizer), processing_class=tokenizer
    ).train()
    for number in range(_VERSIONS):
        step = _WARM_UP_STEPS + number * _APART_STEPS
        (scratch / f"checkpoint-{step}").rename(keep("fine-tune", number) / f"checkpoint-{step}")
    shutil.rmtree(scratch.parent)


def make_lora(keep: Keep) -> None:
    """Train low-rank adapters of every linear layer; a version is the model with them merged."""
    import peft

    torch.manual_seed(0)
    config = peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="SEQ_CLS")
    model = peft.get_peft_model(_make_model(), config)
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-4)
    examples = _make_examples(_make_tokenizer())
    model.train()
    for number in range(_VERSIONS):
        for _ in range(_APART_STEPS if number else _WARM_UP_STEPS):
            chosen = [examples[index] for index in torch.randint(len(examples), (_LORA_BATCH,)).tolist()]
            batch = {name: torch.tensor([example[name] for example in chosen]) for name in chosen[0]}
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()
        merged: Any = copy.deepcopy(model).merge_and_unload()
        merged.save_pretrained(keep("lora-merged", number))


def _make_model() -> Any:
    import transformers

    config = transformers.BertConfig(
        vocab_size=_VOCABULARY,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        num_labels=len(_MODULES),
    )
    return transformers.BertForSequenceClassification(config)


def _make_tokenizer() -> Any:
    """Return a WordPiece tokenizer whose vocabulary was learned from all of the library."""
    import tokenizers
    import transformers

    wordpiece = tokenizers.BertWordPieceTokenizer()
    library = Path(sysconfig.get_path("stdlib"))
    paths = sorted(path for path in library.glob("**/*.py") if "site-packages" not in path.parts)
    # some tests of the library are files that no decoder takes
    texts = (path.read_text(errors="replace") for path in paths)
    wordpiece.train_from_iterator(texts, vocab_size=_VOCABULARY, show_progress=False)
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=wordpiece._tokenizer, mask_token="[MASK]", **names)


def _make_examples(tokenizer: Any) -> list[dict[str, Any]]:
    texts, labels = zip(*_pieces(_EXAMPLES // len(_MODULES)), strict=True)
    encoded = tokenizer(list(texts), truncation=True, padding="max_length", max_length=_TOKENS)
    rows = zip(encoded["input_ids"], encoded["attention_mask"], labels, strict=True)
    return [{"input_ids": words, "attention_mask": mask, "labels": label} for words, mask, label in rows]


def _pieces(per_module: int) -> Iterator[tuple[str, int]]:
    """Yield pieces of source, and the number of the module that each is from."""
    for label, module in enumerate(_MODULES):
        paths = sorted(Path(sysconfig.get_path("stdlib"), module).rglob("*.py"))
        lines = [line for path in paths for line in path.read_text(errors="replace").splitlines() if line.strip()]
        for start in range(per_module):
            yield "\n".join(lines[start * 6 : start * 6 + 6]), label
