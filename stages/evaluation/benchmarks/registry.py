"""All families by name. A new one is a file beside this one and a word in the list below (docs/add-a-task.md)."""

from collections.abc import Mapping

from stages.evaluation.benchmarks import gqa, ocid_ref, pope, refcoco, textvqa, vizwiz, vqav2
from stages.evaluation.benchmarks.family import Family

MODULES = (vqav2, gqa, vizwiz, textvqa, refcoco, ocid_ref, pope)

FAMILIES: Mapping[str, Family] = {module.FAMILY.name: module.FAMILY for module in MODULES}
