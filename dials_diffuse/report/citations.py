"""The references that logs and reports print."""

from __future__ import annotations

_MAPS = "S. P. Meisburger, D. A. Case & N. Ando (2020) Nat. Commun. 11, 1271 (three-dimensional maps, total scattering)"
_SCALING = (
    "S. P. Meisburger, D. A. Case & N. Ando (2023) Nat. Commun. 14, 1228 (scaling of diffuse maps)"
)
_ABSOLUTE_ALONE = (
    "J. Krogh-Moe (1956) Acta Cryst. 9, 951-953 (absolute scale)",
    "N. Norman (1957) Acta Cryst. 10, 370-373 (absolute scale)",
    "J. H. Hubbell et al. (1975) J. Phys. Chem. Ref. Data 4, 471-538 (incoherent scattering)",
)

# A relative map, and what an absolute scale rests on
RELATIVE_MAP = (
    "G. Winter et al. (2018) Acta Cryst. D74, 85-97 (DIALS)",
    "R. W. Grosse-Kunstleve et al. (2002) J. Appl. Cryst. 35, 126-136 (cctbx)",
    "M. E. Wall, A. M. Wolff & J. S. Fraser (2018) Curr. Opin. Struct. Biol. 50, 109-116 (diffuse scattering)",
    _MAPS,
    _SCALING,
)
ABSOLUTE_SCALE = (_MAPS, _SCALING, *_ABSOLUTE_ALONE)


def citations_of_run(absolute: bool) -> list[str]:
    """All that a whole run rests on, each once.

    Args:
        absolute: whether it came to an absolute scale
    """
    return [*RELATIVE_MAP, *(_ABSOLUTE_ALONE if absolute else ())]
