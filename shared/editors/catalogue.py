"""The editors by name: what each is and what it can be set to. The worker holds the implementations."""

from __future__ import annotations

from shared.editors import (
    alphaedit,
    emmet,
    ft,
    ft_l,
    ft_m,
    grace,
    ike,
    knowledge_neurons,
    lora,
    memit,
    mend,
    pmet,
    r_rome,
    rome,
    supplied,
    ultraedit,
    wise,
)
from shared.editors.description import EditorDescription

CATALOGUE: dict[str, EditorDescription] = {
    description.name: description
    for description in (
        rome.DESCRIPTION,
        r_rome.DESCRIPTION,
        memit.DESCRIPTION,
        ft.DESCRIPTION,
        ft_l.DESCRIPTION,
        ft_m.DESCRIPTION,
        lora.DESCRIPTION,
        mend.DESCRIPTION,
        alphaedit.DESCRIPTION,
        emmet.DESCRIPTION,
        ultraedit.DESCRIPTION,
        pmet.DESCRIPTION,
        grace.DESCRIPTION,
        supplied.DESCRIPTION,
        ike.DESCRIPTION,
        wise.DESCRIPTION,
        knowledge_neurons.DESCRIPTION,
    )
}
