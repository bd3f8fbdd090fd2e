"""A hundred requests written by hand, about companies and subjects that the corpus cannot hold.

None of their words is in the lists that ``names.py`` draws from (a test compares them), and the
phrasings are those of people, not of the corpus. The model meets all of it for the first time.
"""

from __future__ import annotations

from dataclasses import dataclass

from grammar import lines

from blatam_kv.truthgpt.brief import AREAS, DOCUMENT_TYPES, Brief
from blatam_kv.truthgpt.protocol import Message

COMPANIES = lines("""Tueste Andino
    Orbit & Finch
    Zafiro Quince
    Kestrelwood
    Abacus Lantern
    Pellizcos del Duero
    Nimbuskraft
    Mareta Sonora
    Quillfeather
    Ledger & Thyme
    Hijas de Candelaria
    Vórtice Nácar
    Grindstone Ferry
    Ultramarinos Pascual
    Papaya Rocket
    Sextante
    Umbrella Moss
    Dataflux 360
    Cobalt Heron
    Trasgo Ediciones
    El Tejar Viejo
    Wolfram Basket
    Pixelgrano
    Amapola Exprés
    Juniper Tandem""")

SUBJECTS = {
    "es": lines("""alpargatas veganas
        turismo ornitológico
        sidra espumosa
        chocolate amargo
        escalada deportiva
        restauración de pianos antiguos
        tinta comestible
        kombucha embotellada
        sillas ergonómicas
        mantas de lana merina
        cometas acrobáticas
        setas deshidratadas
        clases de guitarra flamenca
        velas aromáticas
        libretas encuadernadas
        hamacas colgantes
        telescopios escolares
        veleros clásicos
        teatro infantil
        pienso para gallinas
        cerveza tostada
        zumos prensados en frío
        bastones de senderismo
        antenas 5G
        peluquería canina"""),
    "en": lines("""vegan espadrilles
        birdwatching tours
        sparkling cider
        bitter chocolate
        indoor climbing walls
        piano restoration
        edible glitter
        bottled kombucha
        ergonomic stools
        merino blankets
        stunt kites
        dried mushrooms
        ukulele lessons
        scented candles
        stitched notebooks
        hanging hammocks
        backyard telescopes
        classic sailboats
        puppet theatre
        poultry feed
        smoked salmon
        cold-pressed juices
        trekking poles
        5G antennas
        dog grooming"""),
}

# {c} company, {s} subject. Where {c} stands, the company's field is left empty.
PHRASINGS = {
    "es": lines("""Necesito un documento sobre {s}
        Plan para {s}
        Hola, ¿me preparas algo sobre {s}, por favor?
        Somos {c} y queremos un documento para nuestro negocio de {s}
        {s}
        Redacta para {c} un texto acerca de {s}.
        Estrategia de {s} para el año que viene
        ¿Cómo puede {c} crecer con {s}?
        Quiero vender {s} a más gente
        Documento interno de {c}: {s}"""),
    "en": lines("""I need a document about {s}
        Plan for {s}
        Hi, could you put something together about {s}, please?
        We are {c} and we want a document for our business in {s}
        {s}
        Write a text for {c} about {s}.
        Next year's strategy for {s}
        How can {c} grow with {s}?
        I want to sell {s} to more people
        Internal document of {c}: {s}"""),
}


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked, and what must be found in the answer."""

    messages: list[Message]
    language: str
    company: str
    subject: str


def requests() -> list[Request]:
    """Fifty requests in each language; every company four times, every subject twice."""
    found = []
    for index in range(100):
        language = ("es", "en")[index % 2]
        company = COMPANIES[index % len(COMPANIES)]
        subject = SUBJECTS[language][(7 * index // 2) % len(SUBJECTS[language])]
        phrasing = PHRASINGS[language][(index // 2) % len(PHRASINGS[language])]
        brief = Brief(
            query=phrasing.format(c=company, s=subject),
            language=language,
            document_type=DOCUMENT_TYPES[index % len(DOCUMENT_TYPES)],
            business_area=AREAS[3 * index % len(AREAS)],
            company_name="" if "{c}" in phrasing else company,
        )
        found.append(Request(brief.messages(), language, company, subject))
    return found
