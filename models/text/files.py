"""What the files of a tokenizer say, and whose rules it goes by: transformers 5 has a class for each kind.

Every field of `tokenizer_config.json` is obeyed, or known to change no token, or text is not offered and
the reason names it. Nothing is built here: `models/text/classes.py` does that.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.config import read_json, shown
from models.errors import SpecError, TextError
from models.regular_files import is_there

VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json")  # the first that is there is read
BESIDE = ("merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
MOST_FILE_BYTES = 256 << 20  # seven times the largest known
NO_LIMIT = 10**20  # what transformers takes for "any length"
BACKENDS = frozenset({"TokenizersBackend", "PreTrainedTokenizer", "PreTrainedTokenizerFast", "PythonBackend"})
# The class that transformers 5 has for a model_type. Where the folder names another one, the folder's counts.
CLASS_OF = {
    "albert": "AlbertTokenizer",
    "bart": "RobertaTokenizer",
    "bert": "BertTokenizer",
    "camembert": "CamembertTokenizer",
    "data2vec-text": "RobertaTokenizer",
    "distilbert": "BertTokenizer",
    "electra": "BertTokenizer",
    "ernie": "BertTokenizer",
    "gemma": "GemmaTokenizer",
    "gemma2": "GemmaTokenizer",
    "gemma3_text": "GemmaTokenizer",
    "gpt2": "GPT2Tokenizer",
    "gpt_neox": "GPTNeoXTokenizer",
    "llama": "",
    "mistral": "TokenizersBackend",
    "modernbert": "TokenizersBackend",
    "mpnet": "MPNetTokenizer",
    "nomic_bert": "BertTokenizer",
    "opt": "GPT2Tokenizer",
    "phi3": "TokenizersBackend",
    "qwen2": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
    "roberta": "RobertaTokenizer",
    "t5": "T5Tokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
}
OWN = {*CLASS_OF.values(), "DistilBertTokenizer", "LlamaTokenizer"}  # whose rules are known here
MISNAMED = frozenset({"modernbert", "phi3", "qwen2"})  # whose folders name a class that is not theirs
SAME_RULES = {
    "BartTokenizer": "RobertaTokenizer",
    "ConvBertTokenizer": "BertTokenizer",
    "ElectraTokenizer": "BertTokenizer",
    "LongformerTokenizer": "RobertaTokenizer",
    "MobileBertTokenizer": "BertTokenizer",
    "SqueezeBertTokenizer": "BertTokenizer",
}
# Obeyed, where the class does.
READ = frozenset(
    {
        "add_bos_token",
        "add_eos_token",
        "add_prefix_space",
        "added_tokens_decoder",
        "additional_special_tokens",
        "do_lower_case",
        "extra_special_tokens",
        "keep_accents",
        "legacy",
        "max_len",
        "model_specific_special_tokens",
        "model_input_names",
        "model_max_length",
        "split_special_tokens",
        "strip_accents",
        "tokenize_chinese_chars",
        "tokenizer_class",
        "trim_offsets",
        "truncation_side",
    }
)
# Of chats, padding, decoding, files, and of tokenizers in Python, whose rules transformers 5 no longer has.
IDLE = frozenset(
    """
    _commit_hash _name_or_path cache_dir chat_control_tokens files_loaded full_tokenizer_file
    response_template special_tokens use_auth_token vocab_size vocab_type auto_map backend
    chat_template clean_up_tokenization_spaces device_map do_basic_tokenize errors extra_ids
    from_slow is_local language_codes local_files_only max_length model_type name_or_path
    never_split pad_to_multiple_of pad_token_type_id padding padding_side processor_class
    remove_space response_schema return_token_type_ids sp_model_kwargs spaces_between_special_tokens
    special_tokens_map_file src_lang stride tgt_lang tokenizer_file tokenizer_type torch_dtype
    transformers_version truncation truncation_strategy trust_remote_code use_default_system_prompt
    use_fast verbose vocab_file
    """.split()  # noqa: SIM905 - a list of strings would take a page
)
USUAL = {  # changes nothing as long as it says this
    "fix_mistral_regex": (False, None),
    "init_inputs": ([], ()),
    "wordpieces_prefix": ("##", None),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFiles:
    """A tokenizer's file and what goes with it.

    `kind` is the class of transformers whose rules it goes by, empty for a tokenizer.json as it stands.
    `fields` are those of tokenizer_config.json, those of special_tokens_map.json put in; `added` are
    added_tokens.json's, by text. `lower`: texts are lower-cased first, as sentence-transformers' file
    says.
    """

    file: Path
    kind: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    added: Mapping[str, int] = field(default_factory=dict)
    lower: bool = False

    @property
    def limit(self) -> int | None:
        """Where transformers cuts a text; None: nowhere."""
        limit = self.fields.get("model_max_length", self.fields.get("max_len"))
        return None if limit is None or limit > NO_LIMIT else int(limit)

    @property
    def from_json(self) -> bool:
        """Whether there is a tokenizer.json, rather than a vocabulary alone."""
        return self.file.name == "tokenizer.json"


def read_tokenizer_files(
    folder: Path, config: Mapping[str, Any] | None = None, *, lower: bool = False
) -> TokenizerFiles | None:
    """Return what a folder has of a tokenizer, None for nothing; `config` is the model's own configuration.

    Raises TextError naming what cannot be obeyed: a field, or a file that is not as it should be; SpecError
    for a name that is there and is no file, of which nobody knows what it would have said.
    """
    there = [name for name in (*VOCABULARIES, *BESIDE) if is_there(folder / name)]
    if not there or there[0] not in VOCABULARIES:
        return None
    try:
        return _read(folder / there[0], config or {}, lower=lower)
    except SpecError as problem:
        raise TextError(str(problem)) from None


def _read(file: Path, config: Mapping[str, Any], *, lower: bool) -> TokenizerFiles:
    fields = _json(file.with_name("tokenizer_config.json"))
    kind = _kind(
        file, fields.get("tokenizer_class") or config.get("tokenizer_class"), config.get("model_type")
    )
    _check(fields, known_class=kind in OWN)
    added: dict[str, Any] = {}
    if "added_tokens_decoder" not in fields:  # else transformers leaves the older files alone
        fields |= _json(file.with_name("special_tokens_map.json"))
        added = _json(file.with_name("added_tokens.json"))
        if not all(type(number) is int for number in added.values()):
            raise TextError("added_tokens.json must be an object of whole numbers by token")
    if file.name == "vocab.json" and not is_there(file.with_name("merges.txt")):
        raise TextError("vocab.json needs its merges.txt; save both, or a tokenizer.json")
    if config.get("model_type") is None:  # of no family of transformers: types are as the file says
        fields.setdefault("model_input_names", ["token_type_ids"])
    return TokenizerFiles(file=file, kind=kind, fields=fields, added=added, lower=lower)


def _json(file: Path) -> dict[str, Any]:
    return dict(read_json(file)) if is_there(file) else {}


def _kind(file: Path, named: object, family: object) -> str:
    """Return the class whose rules count, as AutoTokenizer finds it; "?" where only transformers can tell."""
    if named is not None and not isinstance(named, str):
        raise TextError(f"tokenizer_class is {shown(named)}; it must be a name")
    name = "TokenizersBackend" if named in BACKENDS else (named or "").removesuffix("Fast")
    if name == "LlamaTokenizer" and family not in (*MISNAMED, "mistral") and _byte_level(file):
        return ""
    if family is None and not name:  # a Heed folder, whose tokenizer.json is all there is
        return "" if file.name == "tokenizer.json" else "BertTokenizer"
    if family is not None and family not in CLASS_OF:
        return "?"
    own = CLASS_OF.get(str(family), "")
    if name and own and own != name:
        name = own if own in BACKENDS or family in MISNAMED else name
    name = SAME_RULES.get(name or own, name or own)
    return "" if name in BACKENDS else name


def require_small(file: Path) -> None:
    """Raise TextError for a file that no tokenizer needs: a hole of terabytes takes no room on a disk."""
    try:
        size = file.stat().st_size
    except OSError:
        return  # whoever reads it says so
    if size > MOST_FILE_BYTES:
        raise TextError(f"{file.name} has {size} bytes, over the limit of {MOST_FILE_BYTES} for a tokenizer")


def _byte_level(file: Path) -> bool:
    require_small(file)
    return file.name == "tokenizer.json" and b'"ByteLevel"' in file.read_bytes()


def _check(fields: Mapping[str, Any], *, known_class: bool) -> None:
    """Raise TextError for a field that is neither obeyed nor known to change nothing.

    Of a class that transformers makes, transformers reads every field.
    """
    kinds: dict[str, tuple[type, ...]] = {
        **dict.fromkeys(
            ("add_bos_token", "add_eos_token", "do_lower_case", "legacy", "split_special_tokens"), (bool,)
        ),
        **dict.fromkeys(("keep_accents", "tokenize_chinese_chars", "trim_offsets"), (bool,)),
        **dict.fromkeys(("add_prefix_space", "strip_accents"), (bool, type(None))),
        **dict.fromkeys(("model_max_length", "max_len"), (int, float, type(None))),
        "model_input_names": (list,),
        "added_tokens_decoder": (dict,),
    }
    for name, value in fields.items():
        if name in USUAL and value in USUAL[name]:
            continue
        known = name in READ or name in IDLE or name.endswith(("_token", "_token_id"))
        if not known and known_class:
            raise TextError(f"tokenizer_config.json has {shown(name)}, a field that is not known here")
        if name in kinds and type(value) not in kinds[name]:
            raise TextError(f"tokenizer_config.json has {name} of {shown(value)}, which is not of its kind")
    if fields.get("truncation_side", "right") not in ("left", "right"):
        raise TextError(f"truncation_side is {shown(fields['truncation_side'])}; it is left or right")
