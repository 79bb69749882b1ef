"""The world's word-level tokenizers, in the file layout that transformers loads."""

from __future__ import annotations

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from .grammar import BACKGROUNDS, COLOURS, NUMERALS, SHAPES

PAD, UNKNOWN, START, END = "<pad>", "<unk>", "<start>", "<end>"
_SPECIAL = (PAD, UNKNOWN, START, END)
_QUESTION = ("does", "this", "figure", "show", '"', "?", "please", "answer", "yes", "or", ".")
MAX_CAPTION_TOKENS = 16
MAX_QUESTION_TOKENS = 32


def words() -> list[str]:
    """The vocabulary in id order; the four special tokens come first."""
    plurals = [shape + ("es" if shape.endswith("ss") else "s") for shape in SHAPES]
    glue = ("left", "of", "above", "more", "fewer", "than", "and", "on", "background")
    return list(dict.fromkeys((*_SPECIAL, *NUMERALS, *COLOURS, *SHAPES, *plurals, *BACKGROUNDS, *glue, *_QUESTION)))


def build_tokenizer(max_tokens: int, framed: bool = True) -> PreTrainedTokenizerFast:
    """Lower-cased words and punctuation, at most `max_tokens`, between <start> and <end> unless not `framed`."""
    vocabulary = {word: index for index, word in enumerate(words())}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    if framed:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{START} $A {END}", special_tokens=[(START, vocabulary[START]), (END, vocabulary[END])]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_tokens,
        pad_token=PAD,
        unk_token=UNKNOWN,
        bos_token=START,
        eos_token=END,
    )
