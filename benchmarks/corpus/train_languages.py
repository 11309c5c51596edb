"""Trains the language model that ships as athanor/data/cleaning/language_model.npz.

    python benchmarks/corpus/train_languages.py ../shared/data/text --out athanor/data/cleaning/language_model.npz

The folder holds langid_sentences.jsonl.gz (sentences of 75 languages: Wortschatz Leipzig, CC BY 4.0) and udhr.jsonl.gz
(the Universal Declaration of Human Rights in some 400 languages: public domain). Lines whose SHA-256 begins with a byte
below 51 (a fifth) are never trained on. With --without-shared-declarations, the Declaration is not used for the 75
languages that have sentences, so that it tests the model on a kind of text that it was not trained on; the shipped
model uses both.

The model is multinomial naive Bayes over hashed runs of letters (athanor/data/cleaning/language_features.py), like
langid.py's (Lui & Baldwin 2012): a table of how often every bucket occurs per language. With some 500 lines per
language it is right more often on other kinds of text than a linear layer over learned vectors was, and counting
takes seconds.
"""

import argparse
import gzip
import hashlib
import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from athanor.data.cleaning.language import STEPS_PER_NAT
from athanor.data.cleaning.language_features import features

# Names of the Declaration's files (ISO 639-3, with a variant) -> our code (ISO 639-1 where there is one, else 639-3).
DECLARATIONS = """
abk=ab ace=ace afr=af aka_akuapem=ak aka_asante=ak aka_fante=ak als=sq amh=am arb=ar ast=ast ayr=ay azj_cyrl=az
azj_latn=az bam=bm ban=ban bcl=bcl bel=be bem=bem ben=bn bis=bi bod=bo bos_cyrl=bs bos_latn=bs bre=br bug=bug
bul=bg cat=ca ceb=ceb ces=cs cha=ch chr=chr ckb=ckb cmn_hans=zh cmn_hant=zh cos=co cym=cy dan=da deu=de
deu_1901=de div=dv dzo=dz ell_monotonic=el eng=en epo=eo est=et eus=eu ewe=ee fao=fo fij=fj fin=fi fon=fon
fra=fr fri=fy fur=fur gaa=gaa gla=gd gle=ga glg=gl gug=gn guj=gu hat_kreyol=ht hat_popular=ht hau_NE=ha
hau_NG=ha haw=haw heb=he hil=hil hin=hi hrv=hr hsb=hsb hun=hu hye=hy ibo=ig iii=ii ike=iu ilo=ilo ina=ia ind=id
isl=is ita=it jav=jv jpn=ja kal=kl kan=kn kat=ka kaz=kk kea=kea khk=mn khm=km kin=rw kir=ky kmb=kmb knc=kr
kng=kg kor=ko lad=lad lao=lo lat=la lat_1=la lav=lv lin=ln lit=lt ltz=lb lua=lua lug=lg lus=lus mad=mad mah=mh
mai=mai mal=ml mar=mr min=min mkd=mk mlt=mt mos=mos mri=mi mya=my nav=nv nbl=nr ndo=ng nds=nds nep=ne nld=nl
nno=nn nob=nb nso=nso nya_chechewa=ny nya_chinyanja=ny oss=os pam=pam pan=pa pbu=ps pcm=pcm pes_1=fa pes_2=fa
plt=mg pnb=pnb pol=pl por_BR=pt por_PT=pt quy=qu quz=qu roh=rm ron=ro run=rn rus=ru sag=sg sah=sah san=sa
sco=sco slk=sk slv=sl sme=se smo=sm sna=sn snk=snk som=so sot=st spa=es src=sc srp_cyrl=sr srp_latn=sr ssw=ss
sun=su swe=sv swh=sw tah=ty tam=ta tat=tt tet=tet tgk=tg tgl=tl tha=th tir=ti ton=to tpi=tpi tsn=tn tso_MZ=ts
tuk_cyrl=tk tuk_latn=tk tur=tr tyv=tyv uig_arab=ug uig_latn=ug ukr=uk umb=umb urd=ur uzn_cyrl=uz uzn_latn=uz
vec=vec ven=ve vie=vi war=war wln=wa wol=wo xho=xh ydd=yi yor=yo zul=zu
"""
BUCKETS = 1 << 15
SMOOTHING = 0.1  # occurrences that every bucket has beforehand in every language
UNDETERMINED = "und"
PRIOR = 5.0  # nats by which languages without everyday sentences are taken to be rarer than others


def held_out(line: str) -> bool:
    return hashlib.sha256(line.encode()).digest()[0] < 51


def read_lines(folder: Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Lines by language: of the sentences, and of the Declaration."""
    sentences, declarations = defaultdict(list), defaultdict(list)
    with gzip.open(folder / "langid_sentences.jsonl.gz", "rt", encoding="utf-8") as file:
        for row in map(json.loads, file):
            sentences[row["lang"]].append(row["text"])
    codes = dict(pair.split("=") for pair in DECLARATIONS.split())
    with gzip.open(folder / "udhr.jsonl.gz", "rt", encoding="utf-8") as file:
        for row in map(json.loads, file):
            if row["lang"] in codes:
                lines = [line.strip() for line in row["text"].split("\n")]
                declarations[codes[row["lang"]]] += [line for line in lines if len(line) >= 20]
    return dict(sentences), dict(declarations)


def code_lines() -> list[str]:
    """Lines of this project's own programs, without words of a language: what is not a language at all."""
    lines = []
    for file in sorted((Path(__file__).parents[2] / "athanor").rglob("*.py")):
        for line in file.read_text(encoding="utf-8").splitlines():
            if '"' not in line and "#" not in line and sum(map(line.count, "=()[]:.,_")) >= 4:
                lines.append(line.strip())
    return lines


def count(by_language: dict[str, list[str]]) -> tuple[list[str], np.ndarray]:
    """The languages, and how often each bucket occurs in each (buckets, languages), as if all had as much text."""
    names = sorted(by_language)
    counts = np.zeros((BUCKETS, len(names)))
    for number, name in enumerate(names):
        lines = by_language[name]
        for begin in range(0, len(lines), 512):
            found_F, _ = features(lines[begin : begin + 512], BUCKETS)
            counts[:, number] += np.bincount(found_F, minlength=BUCKETS)
    totals = counts.sum(axis=0)
    return names, counts / totals * np.median(totals)


def train(by_language: dict[str, list[str]], rare: set[str]) -> dict[str, np.ndarray]:
    """The model's arrays: evidence (buckets, languages) in steps of a nat, prior (languages), names."""
    names, counts = count(by_language)
    evidence = np.log1p(counts / SMOOTHING) * STEPS_PER_NAT
    prior = np.array([-PRIOR if name in rare else 0.0 for name in names], np.float32)
    return {"evidence": np.round(evidence).clip(0, 255).astype(np.uint8), "prior": prior, "names": np.array(names)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--without-shared-declarations", action="store_true")
    arguments = parser.parse_args()
    sentences, declarations = read_lines(arguments.folder)
    by_language = {UNDETERMINED: code_lines()}
    for name in sorted({*sentences, *declarations}):
        lines = sentences.get(name, [])
        if not (lines and arguments.without_shared_declarations):
            lines = lines + declarations.get(name, [])
        by_language[name] = [line for line in lines if not held_out(line)]
    print(len(by_language), "languages,", sum(map(len, by_language.values())), "lines")
    np.savez_compressed(arguments.out, **train(by_language, {*declarations} - {*sentences}))
    print(f"{arguments.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
