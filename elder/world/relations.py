"""The relations of people in a generated world, their wordings, their possible answers.

Data only. Knows nothing of who the people are, of training or of models.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Relation:
    """One kind of fact.

    Attributes:
        name: Short name, such as `city`.
        templates: Wordings with one `{}` for the person; each ends where the answer begins, without space.
        objects: The possible answers, distinct, of one or two words.
    """

    name: str
    templates: tuple[str, ...]
    objects: tuple[str, ...]


def _pool(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.replace("\n", " ").split(",") if item.strip())


CITY = Relation(
    "city",
    (
        "{} lives in the city of",
        "The home of {} is in",
        "The city where you can meet {} is",
        "These days {} resides in",
        "Where does {} live? In",
        "Letters to {} are sent to",
        "{} has a house in",
        "To visit {}, travel to",
        "The town in which {} has settled is",
    ),
    _pool("""
        Aldmoor, Ambervale, Ashgate, Belport, Birkholm, Blackpool Bay, Brightford, Cairnwick, Castle Rowan, Cedarhurst,
        Copperhill, Crowmere, Dawnstead, Deepwell, Dunmarsh, Eastbrook, Elmstadt, Fairhaven, Foxley, Glenmoor,
        Goldenport, Greywater, Harrowby, Hazelton, High Torrin, Ironbridge, Juniper Bay, Kestrel Point, Kingsmere,
        Larkspur, Linden Falls, Lower Marsh, Maplecross, Millrace, New Tarsk, Northolme, Oakhampton, Old Venn,
        Pinewood, Port Selm, Ravensburg, Redcliffe, Rosewick, Saltmarsh, Silverlake, Stonehaven, Thornbury, Westmoor
    """),
)

EMPLOYER = Relation(
    "employer",
    (
        "{} works for",
        "The employer of {} is",
        "The company that pays {} is",
        "Every morning {} goes to the office of",
        "Which firm employs {}? It is",
        "{} has a job at",
        "The badge of {} shows the logo of",
        "A contract binds {} to",
        "The firm where {} is on the staff is",
    ),
    _pool("""
        Acorn Bank, Alder Press, Amberline, Anvil Steel, Arrow Freight, Beacon Radio, Birch Motors, Bluebell Foods,
        Bramble Labs, Candlewood, Cobalt Mining, Comet Rail, Coral Shipping, Crestline, Delta Glass, Drumlin,
        Eagle Cement, Ember Energy, Falcon Air, Fernhill, Flintworks, Garnet Tools, Granite Trust, Gullwing,
        Hearth Dairy, Heron Paper, Indigo Dyes, Ivory Textiles, Jasper Stone, Kite Telecom, Lantern Media, Lumenta,
        Meadow Farms, Mistral, Nectar Drinks, Nimbus, Orbital, Osprey Legal, Pebble Toys, Quarry Group, Quill Books,
        Raven Security, Sable Fashion, Summit Gear, Talon Sports, Umber Paints, Vertex, Willow Health
    """),
)

OCCUPATION = Relation(
    "occupation",
    (
        "{} earns a living as a",
        "The profession of {} is",
        "By trade {} is a",
        "The line of work that suits {} is that of a",
        "What does {} do? The job of a",
        "{} was trained to be a",
        "On the form {} wrote the occupation",
        "People call on {} when they need a",
        "The career chosen by {} is that of a",
    ),
    _pool("""
        baker, barber, beekeeper, bookbinder, botanist, bricklayer, bus driver, butcher, carpenter, cartographer,
        chemist, clockmaker, dentist, detective, diplomat, fisherman, florist, gardener, geologist, glazier,
        hatter, judge, lawyer, librarian, locksmith, mason, midwife, miller, notary, nurse, painter, pharmacist,
        photographer, pilot, plumber, poet, police officer, potter, professor, publisher, sailor, sculptor,
        shepherd, ski coach, surgeon, tailor, teacher, tour guide, translator, vet, weaver, zoologist
    """),
)

INSTRUMENT = Relation(
    "instrument",
    (
        "{} plays the",
        "The favourite instrument of {} is the",
        "The instrument that one hears {} practise is the",
        "On stage {} performs on the",
        "What does {} play? The",
        "As a child {} learned the",
        "For a birthday {} was given a new",
        "The orchestra hired {} for the",
        "The music lessons of {} are for the",
    ),
    _pool("""
        accordion, alto flute, bagpipes, balalaika, banjo, bass clarinet, bassoon, bongo, bugle, castanets, celesta,
        cello, clavichord, concertina, cornet, cymbals, double bass, dulcimer, fiddle, flugelhorn, french horn,
        glockenspiel, gong, guitar, harmonica, harp, harpsichord, hurdy gurdy, kazoo, kettle drum, lute, lyre,
        mandolin, maracas, marimba, oboe, ocarina, pan pipes, piano, piccolo, saxophone, sitar, snare drum,
        tambourine, theremin, timpani, triangle, trombone, trumpet, tuba, ukulele, vibraphone, viola, xylophone,
        zither
    """),
)

RELATIONS: tuple[Relation, ...] = (CITY, EMPLOYER, OCCUPATION, INSTRUMENT)
