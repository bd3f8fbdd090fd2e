"""Company names and subjects, from spaces so wide that only copying them pays.

Half of the words do not exist: they are syllables put together by the sound rules of Spanish or
English. A model that has seen a hundred thousand of them once each can only learn to look back.
"""

from __future__ import annotations

from random import Random

ONSETS = {
    "es": "b c ch d f g l ll m n p r s t v z br cr dr fl fr gr pl pr tr j qu h y cl bl gu".split(),
    "en": "b c ch d f g h j k l m n p r s t v w y z br cr dr fl fr gr pl pr tr st sp sh th sl sw "
    "qu wh cl bl gl sn sk tw".split(),
}
VOWELS = {
    "es": "a e i o u a e o ia ie io ue á é í ó ú ai ei".split(),
    "en": "a e i o u a e o oo ee ai ea ow ou ay i".split(),
}
CODAS = {
    "es": ["", "", "", "", "n", "r", "s", "l", "z", "d", "m"],
    "en": ["", "", "", "n", "r", "s", "l", "t", "ck", "m", "nd", "rk", "x", "lt", "ng", "st", "y"],
}
ENDINGS = {
    "es": "a o e ar es ía ción dad al ero era ista ez ino ina ado anza ico al il or és ón".split(),
    "en": "er ing ment ly ton ley ford ia io ex ance ive able y ware let ness field sen way".split(),
}

SURNAMES = """García Fernández López Martínez Sánchez Pérez Gómez Ruiz Navarro Torres Vidal Molina
Ortega Delgado Castro Ramos Iglesias Cano Prieto Herrero Peña Cabrera Fuentes Carrasco Rojas Muñoz
Quintana Ibáñez Ferrer Soler Puig Etxeberria Arrieta Zubiri Hartley Osborne Whitaker Caldwell Mercer
Bradshaw Ellison Thornton Vance Keller Novak Schmidt Larsen Okafor Nakamura Patel Singh Chen Nguyen
O'Brien McAllister Fitzgerald Walsh Moreau Lefèvre Rossi Bianchi Silva Almeida Kowalski Petrov Haddad
Dubois Weiss Bergman Lindqvist Jansen Costa Reyes Salazar Cordero Montoya Beltrán Pacheco""".split()

BRAND_WORDS = {
    "es": """Monte Río Sol Luna Mar Norte Sur Valle Sierra Costa Campo Huerta Bosque Puente Faro
    Torre Plaza Casa Taller Bodega Molino Panadería Clínica Farmacia Academia Estudio Grupo Talleres
    Transportes Logística Construcciones Instalaciones Librería Cafetería Hotel Hostal Restaurante
    Viveros Aceites Quesos Conservas Muebles Textiles Calzados Cerámicas Energía Ingeniería
    Consultoría Asesores Soluciones Sistemas Tecnologías Digital Verde Azul Blanco Dorado Vivo Nuevo
    Claro Alto Raíz Semilla Brisa Aurora Estrella Nube Horizonte Cumbre Laguna Jardín Camino Origen
    Alba Lince Halcón Encina Olivo Trigo Miel Sal Barro Piedra Hierro Plata Ibérica Austral""".split(),
    "en": """North South River Stone Oak Maple Cedar Harbor Bridge Summit Peak Valley Field Meadow
    Forest Lake Ocean Wave Cloud Sky Star Moon Sun Light Bright Green Blue Red Silver Golden Iron
    Copper Clear True Prime Core Next First Urban Rural Global Local Digital Data Code Pixel Logic
    Labs Works Studio Group Partners Solutions Systems Technologies Consulting Foods Farms Bakery
    Brewing Coffee Books Media Design Motors Energy Health Care Clinic Pharmacy Logistics Freight
    Fitness Travel Homes Builders Kitchen Garden Outdoor Robotics Analytics Security Capital Wealth
    Legal Learning Academy Apparel Cycles Paper Ink Glass Wool Leather Roast Orchard Haven Spark""".split(),
}
LEGAL = ["S.L.", "S.A.", "S.L.U.", "S. Coop.", "S.A. de C.V.", "Inc.", "Ltd", "Ltd.", "LLC", "GmbH"]
LEGAL += ["Co.", "PLC", "AG", "SAS", "B.V.", "Corp."]

NOUNS = {
    "es": """café té pan aceite vino queso miel fruta verdura pescado ropa calzado muebles juguetes
    libros bicicletas patinetes coches furgonetas baterías paneles turbinas sensores cámaras drones
    robots impresoras portátiles móviles aplicaciones plataformas cursos talleres seminarios
    consultas tratamientos seguros préstamos pagos facturas nóminas contratos licencias patentes
    viajes hoteles apartamentos oficinas almacenes fábricas tiendas farmacias clínicas gimnasios
    escuelas bibliotecas museos conciertos festivales ferias campañas boletines vídeos podcasts
    fotografías diseños jardines piscinas cocinas baños suelos ventanas puertas tejados residuos
    envases plásticos textiles metales maderas cerámicas jabones cosméticos perfumes vitaminas
    alimentos bebidas helados pasteles galletas semillas abonos invernaderos granjas viñedos
    repuestos motores frenos neumáticos mudanzas envíos paquetes rutas inventarios pedidos
    devoluciones reclamaciones encuestas incidencias turnos vacaciones teletrabajo formación
    contratación selección bienvenida desempeño salarios becas datos copias redes servidores
    contraseñas accesos auditorías impuestos presupuestos inversiones créditos alquileres
    herramientas uniformes mascotas veterinarios dentistas ópticas gafas relojes joyas bolsos
    regalos flores plantas huertos riego agua calefacción climatización iluminación limpieza
    mantenimiento vigilancia traducción imprenta cartelería señalización embalaje reciclaje""".split(),
    "en": """coffee tea bread oil wine cheese honey fruit vegetables fish clothing shoes furniture
    toys books bicycles scooters cars vans batteries panels turbines sensors cameras drones robots
    printers laptops phones apps platforms courses workshops seminars consultations treatments
    insurance loans payments invoices payroll contracts licences patents trips hotels apartments
    offices warehouses factories stores pharmacies clinics gyms schools libraries museums concerts
    festivals fairs campaigns newsletters videos podcasts photographs designs gardens pools kitchens
    bathrooms floors windows doors roofs waste packaging plastics textiles metals timber ceramics
    soaps cosmetics perfumes vitamins snacks drinks desserts cakes cookies seeds fertilizer
    greenhouses farms vineyards parts engines brakes tyres removals shipments parcels routes
    inventory orders returns complaints surveys incidents shifts holidays remote onboarding hiring
    training performance salaries scholarships data backups networks servers passwords access audits
    taxes budgets investments credit rentals tools uniforms pets veterinarians dentists glasses
    watches jewellery bags gifts flowers plants irrigation water heating cooling lighting cleaning
    maintenance surveillance translation printing signage recycling leases kits subscriptions
    memberships tickets meals catering childcare tutoring coaching software hardware firmware""".split(),
}
QUALITIES = {
    "es": """de comercio justo|de segunda mano|de proximidad|de temporada|a domicilio|en línea|
    por suscripción|sin gluten|bajo demanda|de alta gama|para niños|para mayores|para empresas|
    para autónomos|para hostelería|para colegios|para hospitales|para el hogar|en la nube|
    con energía solar|de bajo consumo|de artesanía|a granel|sin conexión|con garantía ampliada|
    en zonas rurales|en el centro histórico|para exportación|a medida|con inteligencia artificial|
    multicanal|de cultivo ecológico|artesanal|industrial|digital|internacional|regional|sostenible|
    de uso urbano|
    portátil|inteligente|modular|a largo plazo|entre oficinas|
    para personal nuevo|de clientes|de proveedores|para turistas|por horas|de última milla""".split(
        "|"
    ),
    "en": """fair trade|second-hand|locally grown|seasonal|home-delivered|online|subscription|
    gluten-free|on-demand|high-end|rooftop|cloud-based|solar-powered|low-energy|handmade|bulk|
    offline|refurbished|rural|downtown|custom|AI-assisted|multichannel|organic|artisan|industrial|
    digital|international|regional|sustainable|urban|portable|premium|smart|modular|nightly|
    long-term|cross-border|wireless|compostable|vintage|mobile|electric|recycled|waterproof|
    early-stage|automated|peer-to-peer|family-run|plant-based|next-day|remote""".split("|"),
}
PURPOSES = {
    "es": """para hostelería|para pequeñas empresas|para familias jóvenes|para el sector público|
    en ciudades medianas|en Madrid|en América Latina|para estudiantes|en tiendas físicas|
    en redes sociales|con pago aplazado|para equipos remotos|en varias sedes|para el verano|
    de nueva generación|con entrega en 24 horas|para centros de salud|en mercados nuevos|
    con proveedores locales|durante la temporada alta|para 2027|en la provincia de Burgos""".split(
        "|"
    ),
    "en": """for small businesses|for young families|for the public sector|in mid-sized cities|
    in Chicago|across Europe|for students|in physical stores|on social media|for remote teams|
    across several sites|for the summer|with 24-hour delivery|for health centres|in new markets|
    with local suppliers|during peak season|for 2027|for restaurants|for first-time buyers|
    at trade fairs|in coastal towns|for independent retailers""".split("|"),
}
FRAMES = {
    "es": """lanzamiento de|mejora de|gestión de|venta de|distribución de|control de|alquiler de|
    apertura de|digitalización de|producción de|entrega de|reparación de|compra de|promoción de|
    red de|programa de|servicio de|tienda de|línea de|plataforma de|campaña de|uso de|cuidado de|
    estrategia de lanzamiento de|plan de expansión de|política de|protocolo de|suministro de""".split(
        "|"
    ),
    "en": """launch of|improvement of|management of|sale of|distribution of|control of|rental of|
    opening of|production of|delivery of|repair of|purchase of|promotion of|network of|use of|
    care of|launch strategy for|expansion into|policy on|supply of|migration to|access to|
    demand for|pricing of|storage of|a marketplace for|a chain of|introduction of""".split("|"),
}


# What a query is about when somebody tells it in a sentence: who it is for, where, and a clause.
KINDS = {
    "es": """una cadena|una cooperativa|un taller|una tienda|una red|una asociación|un grupo|
    una fábrica|una empresa|una comunidad|un estudio|una escuela|una plataforma|un centro|
    una distribuidora|una feria|un servicio|un equipo|una flota|un almacén|una línea|un sistema|
    nuestra tienda|nuestro equipo|nuestra plataforma|nuestro servicio|el almacén|la red|el turno""".split(
        "|"
    ),
    "en": """a chain|a cooperative|a workshop|a store|a network|an association|a group|a factory|
    a company|a community|a studio|a school|a platform|a centre|a distributor|a fair|a service|
    a team|a fleet|a warehouse|a line|a system|our store|our team|our platform|our service|
    the warehouse|the network|the shift|an online shop|a family|my shop""".split("|"),
}
PLACES = {
    "es": """Valencia|Sevilla|Bilbao|Zaragoza|Lima|Bogotá|Quito|Montevideo|Monterrey|Rosario|
    la costa|el centro|el barrio|la sierra|varias provincias|el norte|dos países|el puerto""".split(
        "|"
    ),
    "en": """Leeds|Bristol|Dublin|Toronto|Austin|Portland|Sydney|Cape Town|the north|the suburbs|
    two states|the old town|the harbour|several counties|the first quarter|the second half""".split(
        "|"
    ),
}
CLAUSES = {
    "es": """que vende {}|que alquila {} y {}|que quiere abrir {}|que enseña {} a {}|
    que avisa a {} de {}|que conecta {} con {}|que ayuda a {} a elegir {}|que reparte {} en {p}|
    que fabrica {} para {}|que cambia {} por {}|que ofrece {} y {} cuando faltan {}|
    donde se reparan {}|con {} y {}|sin {} ni {}|con {}, {} y {}|que busca {} en {p}|
    que quiere vender {} a {}|que empieza con {}|cuando llegan {}|antes de comprar {}""".split("|"),
    "en": """that sells {}|that rents {} and {}|that wants to open {}|that teaches {} to {}|
    that tells {} about {}|that connects {} with {}|that helps {} choose {}|
    that delivers {} in {p}|that makes {} for {}|that turns {} into {}|
    that offers {} and {} when {} arrive|where {} are repaired|with {} and {}|without {} or {}|
    with {}, {} and {}|looking for {} in {p}|that wants to sell {} to {}|starting with {}|
    when their {} arrive|before they buy {}|including {} and {}""".split("|"),
}
LINKS = {
    "es": "para|para|en|de|sobre|con".split("|"),
    "en": "for|for|in|of|about|with".split("|"),
}


def clean(words: list[str]) -> list[str]:
    return [word.strip() for word in words]


QUALITIES = {k: clean(v) for k, v in QUALITIES.items()}
PURPOSES = {k: clean(v) for k, v in PURPOSES.items()}
FRAMES = {k: clean(v) for k, v in FRAMES.items()}
KINDS = {k: clean(v) for k, v in KINDS.items()}
PLACES = {k: clean(v) for k, v in PLACES.items()}
CLAUSES = {k: clean(v) for k, v in CLAUSES.items()}


def invented(rng: Random, language: str) -> str:
    """A word that does not exist but could, lower case, 3 to about 12 letters."""
    syllables = rng.choice((1, 1, 2, 2, 3))
    word = ""
    for _ in range(syllables):
        word += rng.choice(ONSETS[language]) + rng.choice(VOWELS[language])
        word += rng.choice(CODAS[language])
    if rng.random() < 0.7:
        word += rng.choice(ONSETS[language]) * (rng.random() < 0.5) + rng.choice(ENDINGS[language])
    return word if len(word) > 2 else word + rng.choice(ENDINGS[language]) + "n"


def company(rng: Random) -> str:
    """A company's name: invented or made of words, with or without a legal form."""
    language = rng.choice(("es", "en"))

    def word() -> str:
        return rng.choice(BRAND_WORDS[language])

    def coined() -> str:
        return invented(rng, language).capitalize()

    def surname() -> str:
        return rng.choice(SURNAMES) if rng.random() < 0.5 else coined()

    shape = rng.randrange(20)
    if shape < 3:
        name = coined()
    elif shape < 6:
        name = f"{coined()} {word()}"
    elif shape < 8:
        name = f"{word()} {coined()}"
    elif shape < 10:
        name = f"{word()} {word()}"
    elif shape == 10:
        name = f"{surname()} {rng.choice(('&', 'y', 'and', 'e'))} {surname()}"
    elif shape == 11:
        name = rng.choice(
            ("{0} & Sons", "Hermanos {0}", "Hijos de {0}", "{0} Hermanos", "{0} Bros")
        )
        name = name.format(surname())
    elif shape == 12:
        letters = "".join(rng.choice("ABCDEFGHIJKLMNOPRSTUVXZ") for _ in range(rng.randint(2, 4)))
        name = letters if rng.random() < 0.3 else f"{letters} {word()}"
    elif shape == 13:
        number = str(rng.choice((rng.randrange(10), rng.randrange(100), rng.randrange(2100))))
        name = rng.choice(("{n}{w}", "{w} {n}", "{l}{n} {w}", "{n}{l} {w}", "{c}{n}"))
        name = name.format(n=number, w=word(), l=rng.choice("ABCDMRSTXZ"), c=coined())
    elif shape == 14:
        name = word() + rng.choice((word(), coined()))
    elif shape == 15:
        name = rng.choice(
            (invented(rng, language), invented(rng, language) + rng.choice((".io", ".ai", "ly")))
        )
    elif shape == 16:
        name = f"{word()} {rng.choice(('de', 'del', 'of', 'la'))} {coined()}"
    elif shape == 17:
        name = f"{coined()} {coined()}"
    elif shape == 18:
        name = f"{word()} {coined()} {word()}"
    else:
        name = f"{surname()} {word()}"
    return f"{name} {rng.choice(LEGAL)}" if rng.random() < 0.2 else name


def told(rng: Random, language: str) -> str:
    """A subject as somebody tells it: up to about fifteen words, articles and clauses included.

    Some words come twice. Copying past such a place takes more than looking for the last word.
    """
    said: list[str] = []

    def thing() -> str:
        if said and rng.random() < 0.15:
            return rng.choice(said)
        word = rng.choice(NOUNS[language]) if rng.random() < 0.5 else invented(rng, language)
        if rng.random() < 0.3:
            quality = invented(rng, language) if rng.random() < 0.5 else ""
            quality = quality or rng.choice(QUALITIES[language])
            word = f"{word} {quality}" if language == "es" else f"{quality} {word}"
        said.append(word)
        return word

    def place() -> str:
        return (
            rng.choice(PLACES[language]) if rng.random() < 0.5 else invented(rng, language).title()
        )

    def clause() -> str:
        form = rng.choice(CLAUSES[language]).replace("{p}", place())
        while "{}" in form:
            form = form.replace("{}", thing(), 1)
        return form

    of = "de" if language == "es" else "of"
    whole = f"{rng.choice(KINDS[language])} {of} {thing()}"
    parts = [thing()]
    if rng.random() < 0.4:
        parts.insert(0, rng.choice(FRAMES[language]))
    draw = rng.random()
    if draw < 0.35:
        parts = [*parts, rng.choice(LINKS[language]), whole]
    elif draw < 0.6:
        parts = [*parts, clause()]
    elif draw < 0.8:
        parts = [whole, clause()]
    else:
        parts = [*parts, rng.choice(LINKS[language]), whole, clause()]
    if rng.random() < 0.25:
        parts += ["en" if language == "es" else "in", place()]
    return " ".join(parts)


def subject(rng: Random, language: str) -> str:
    """What a document is about, in one to about fifteen words, mostly lower case."""
    return told(rng, language) if rng.random() < 0.35 else phrase(rng, language)


def phrase(rng: Random, language: str) -> str:
    """A noun phrase of one to about eight words."""

    def noun() -> str:
        draw = rng.random()
        if draw < 0.6:
            return rng.choice(NOUNS[language])
        if draw < 0.94:
            return invented(rng, language)
        return invented(rng, language).upper()[:4] if draw < 0.97 else company(rng)

    core = noun()
    if rng.random() < 0.55:
        quality = rng.choice(QUALITIES[language]) if rng.random() < 0.7 else invented(rng, language)
        if language == "es" and core.endswith("s") and " " not in quality:
            quality = quality + ("s" if quality[-1] in "aeio" else "es")
        core = f"{core} {quality}" if language == "es" else f"{quality} {core}"
    if rng.random() < 0.2:
        core = f"{core} {'y' if language == 'es' else 'and'} {noun()}"
    if language == "en" and rng.random() < 0.25:
        core = f"{core} {rng.choice(NOUNS['en'])}"
    if language == "es" and rng.random() < 0.25:
        core = f"{core} de {noun()}"
    if rng.random() < 0.4:
        core = f"{rng.choice(FRAMES[language])} {core}"
    if rng.random() < 0.35:
        core = f"{core} {rng.choice(PURPOSES[language])}"
    return core


def industry(rng: Random, language: str) -> str:
    """A sector as a user might write it."""
    return rng.choice(NOUNS[language]) if rng.random() < 0.5 else subject(rng, language)
