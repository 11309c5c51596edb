"""The tokenizer classes of models that were made with fairseq: XLM-R, CamemBERT, mBART, NLLB, M2M-100.

fairseq numbers its dictionary itself: special tokens come first, so that pieces stand one place further than in the
SentencePiece file (CamemBERT's by four), and languages and <mask> come behind them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import AddedToken, models, normalizers

from athanor.base.errors import AthanorError
from athanor.tokens.sentencepiece import BPE, CONTROL, SentencePieceModel
from athanor.tokens.spiece import PARTS, as_written, by_words, characters, check_unigram, spaced_words

FIRST = ("<s>", "<pad>", "</s>", "<unk>")
XLM_ROBERTA = {**PARTS, "sep": "</s>", "cls": "<s>", "mask": "<mask>"}
M2M100_NAMES = {**PARTS, "sep": "</s>"}
MBART50 = {role: token for role, token in XLM_ROBERTA.items() if role != "bos"}

# What M2M-100 translates between (Fan et al. 2020), in the order of their ids behind the vocabulary; and WMT 2021's.
M2M100 = (
    "af am ar ast az ba be bg bn br bs ca ceb cs cy da de el en es et fa ff fi fr fy ga gd gl gu ha he hi hr ht hu "
    "hy id ig ilo is it ja jv ka kk km kn ko lb lg ln lo lt lv mg mk ml mn mr ms my ne nl no ns oc or pa pl ps pt "
    "ro ru sd si sk sl so sq sr ss su sv sw ta th tl tn tr uk ur uz vi wo xh yi yo zh zu"
)
LANGUAGES = {"m2m100": M2M100.split(), "wmt21": "en ha is ja cs ru zh de".split()}
# mBART's (Liu et al. 2020) and the 27 more of mBART-50 (Tang et al. 2020).
MBART_25 = (
    "ar_AR cs_CZ de_DE en_XX es_XX et_EE fi_FI fr_XX gu_IN hi_IN it_IT ja_XX kk_KZ ko_KR lt_LT lv_LV my_MM ne_NP "
    "nl_XX ro_RO ru_RU si_LK tr_TR vi_VN zh_CN"
).split()
MBART_50 = [
    *MBART_25,
    *(
        "af_ZA az_AZ bn_IN fa_IR he_IL hr_HR id_ID ka_GE km_KH mk_MK ml_IN mn_MN mr_IN pl_PL ps_AF pt_XX sv_SE sw_KE "
        "ta_IN te_IN th_TH tl_XX uk_UA ur_PK xh_ZA gl_ES sl_SI"
    ).split(),
]
# NLLB-200's (NLLB Team 2022), written as language_Script.
NLLB = (
    "ace_Arab ace_Latn acm_Arab acq_Arab aeb_Arab afr_Latn ajp_Arab aka_Latn amh_Ethi apc_Arab arb_Arab ars_Arab "
    "ary_Arab arz_Arab asm_Beng ast_Latn awa_Deva ayr_Latn azb_Arab azj_Latn bak_Cyrl bam_Latn ban_Latn bel_Cyrl "
    "bem_Latn ben_Beng bho_Deva bjn_Arab bjn_Latn bod_Tibt bos_Latn bug_Latn bul_Cyrl cat_Latn ceb_Latn ces_Latn "
    "cjk_Latn ckb_Arab crh_Latn cym_Latn dan_Latn deu_Latn dik_Latn dyu_Latn dzo_Tibt ell_Grek eng_Latn epo_Latn "
    "est_Latn eus_Latn ewe_Latn fao_Latn pes_Arab fij_Latn fin_Latn fon_Latn fra_Latn fur_Latn fuv_Latn gla_Latn "
    "gle_Latn glg_Latn grn_Latn guj_Gujr hat_Latn hau_Latn heb_Hebr hin_Deva hne_Deva hrv_Latn hun_Latn hye_Armn "
    "ibo_Latn ilo_Latn ind_Latn isl_Latn ita_Latn jav_Latn jpn_Jpan kab_Latn kac_Latn kam_Latn kan_Knda kas_Arab "
    "kas_Deva kat_Geor knc_Arab knc_Latn kaz_Cyrl kbp_Latn kea_Latn khm_Khmr kik_Latn kin_Latn kir_Cyrl kmb_Latn "
    "kon_Latn kor_Hang kmr_Latn lao_Laoo lvs_Latn lij_Latn lim_Latn lin_Latn lit_Latn lmo_Latn ltg_Latn ltz_Latn "
    "lua_Latn lug_Latn luo_Latn lus_Latn mag_Deva mai_Deva mal_Mlym mar_Deva min_Latn mkd_Cyrl plt_Latn mlt_Latn "
    "mni_Beng khk_Cyrl mos_Latn mri_Latn zsm_Latn mya_Mymr nld_Latn nno_Latn nob_Latn npi_Deva nso_Latn nus_Latn "
    "nya_Latn oci_Latn gaz_Latn ory_Orya pag_Latn pan_Guru pap_Latn pol_Latn por_Latn prs_Arab pbt_Arab quy_Latn "
    "ron_Latn run_Latn rus_Cyrl sag_Latn san_Deva sat_Beng scn_Latn shn_Mymr sin_Sinh slk_Latn slv_Latn smo_Latn "
    "sna_Latn snd_Arab som_Latn sot_Latn spa_Latn als_Latn srd_Latn srp_Cyrl ssw_Latn sun_Latn swe_Latn swh_Latn "
    "szl_Latn tam_Taml tat_Cyrl tel_Telu tgk_Cyrl tgl_Latn tha_Thai tir_Ethi taq_Latn taq_Tfng tpi_Latn tsn_Latn "
    "tso_Latn tuk_Latn tum_Latn tur_Latn twi_Latn tzm_Tfng uig_Arab ukr_Cyrl umb_Latn urd_Arab uzn_Latn vec_Latn "
    "vie_Latn war_Latn wol_Latn xho_Latn ydd_Hebr yor_Latn yue_Hant zho_Hans zho_Hant zul_Latn"
).split()


def xlm_roberta(model: SentencePieceModel) -> tokenizers.Tokenizer:
    """XLM-R's: four special tokens where the file has three, and <mask> last (Conneau et al. 2020)."""
    return _numbered("XLMRobertaTokenizer", model, FIRST, 3, ["<mask>"])


def camembert(model: SentencePieceModel) -> tokenizers.Tokenizer:
    """CamemBERT's: four unused names and <pad> before the file's own <s> and </s> (Martin et al. 2020)."""
    first = ("<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED")
    return _masked(_numbered("CamembertTokenizer", model, first, 1, ["<mask>"]))


def mbart(model: SentencePieceModel) -> tokenizers.Tokenizer:
    """mBART's: 25 languages behind the pieces; its table of characters is not used, as transformers 5 does."""
    core = _numbered("MBartTokenizer", model, FIRST, 3, [*MBART_25, "<mask>"])
    core.normalizer = None
    return _masked(core, MBART_25)


def mbart50(model: SentencePieceModel) -> tokenizers.Tokenizer:
    """mBART-50's: 52 languages behind the pieces, text cut at spaces only."""
    core = _numbered("MBart50Tokenizer", model, FIRST, 3, [*MBART_50, "<mask>"])
    core.normalizer = characters(model)
    core.decoder = spaced_words(core)
    return _masked(core, MBART_50)


def nllb(model: SentencePieceModel, config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """NLLB's: BPE, then 202 languages and <mask>, as published (eng_Latn is 256047 behind 256,000 pieces).

    From these files alone transformers 5.23 makes no languages unless the configuration lists them, and then behind
    <mask>; the class before it had the ids of fairseq, which the models know.
    """
    if model.kind != BPE:
        raise AthanorError("the SentencePiece model of NllbTokenizer is one of unigrams", allowed="a model of BPE")
    pieces = [*FIRST, *(piece.text for piece in model.pieces[3:])]
    core = tokenizers.Tokenizer(models.BPE(
        vocab={text: index for index, text in enumerate(pieces)}, merges=model.merges(), unk_token="<unk>",
        fuse_unk=True,
    ))  # fmt: skip
    core.normalizer = characters(model)
    core.decoder = spaced_words(core)
    listed = config.get("additional_special_tokens") or []
    names = [str(row["content"] if isinstance(row, Mapping) else row) for row in listed]
    core = _masked(core, NLLB)
    core.add_special_tokens([AddedToken(name, normalized=False) for name in names if core.token_to_id(name) is None])
    return core


def m2m100(model: SentencePieceModel, config: Mapping[str, Any], vocabulary: Mapping[str, int]) -> tokenizers.Tokenizer:
    """M2M-100's: SentencePiece cuts, vocab.json gives the ids, and a token for each language stands behind them."""
    named = [piece.text for piece in model.pieces if piece.kind not in (CONTROL,)]
    missing = [text for text in named if text not in vocabulary] if vocabulary else named
    if missing or model.kind != BPE or set(PARTS.values()) - set(vocabulary):
        what = f"{missing[0]!r} has no id" if missing and vocabulary else "it gives no ids to pieces of BPE"
        raise AthanorError(f"vocab.json does not fit the SentencePiece model of M2M100Tokenizer: {what}",
                           fix="copy vocab.json and sentencepiece.bpe.model of one model")  # fmt: skip
    core = as_written(model)
    core.model = models.BPE(vocab=dict(vocabulary), merges=model.merges(), unk_token="<unk>", fuse_unk=True)
    languages = LANGUAGES[str(config.get("language_codes") or "m2m100")]
    core.add_special_tokens([AddedToken(f"__{code}__", normalized=False) for code in languages])
    return core


def _numbered(
    name: str, model: SentencePieceModel, first: Sequence[str], taken: int, last: Sequence[str]
) -> tokenizers.Tokenizer:
    """Unigrams with names before them in place of the file's first ones (`taken`), and names behind them."""
    check_unigram(name, model)
    rows = [(text, -100.0 if text == "<unk>NOTUSED" else 0.0) for text in first]
    rows += [(piece.text, piece.score) for piece in model.pieces[taken:]] + [(text, 0.0) for text in last]
    core = tokenizers.Tokenizer(models.Unigram(rows, 3, False))
    if model.characters:
        core.normalizer = normalizers.Precompiled(model.characters)
    return by_words(core)


def _masked(core: tokenizers.Tokenizer, languages: Sequence[str] = ()) -> tokenizers.Tokenizer:
    """Mark the languages as special tokens, and <mask>, which takes the space before it."""
    core.add_special_tokens([AddedToken(name, normalized=False) for name in languages])
    core.add_special_tokens([AddedToken("<mask>", normalized=False, lstrip=True)])
    return core
