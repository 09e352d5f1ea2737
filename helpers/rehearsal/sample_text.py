"""The words of the rehearsal source: sentences that we wrote, by topic, in English and Spanish.

Data and nothing else. `sample.py` composes documents of it. A slot in braces is filled from `SLOTS`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Topic:
    """What a chunk is about: its heading in both languages, and what can be said of it."""

    heading: str
    titulo: str
    english: tuple[str, ...]
    spanish: tuple[str, ...]


# The five queries of the runbook (Step 4). Every collection of the sample has chunks on each of them.
QUERY_TOPICS: tuple[Topic, ...] = (
    Topic(
        "API authentication",
        "Autenticación de la API",
        (
            "API authentication in {component} takes a bearer token that lives for {number} minutes.",
            "Every API call without authentication gets a 401 and a line in the log of {component}.",
            "The authentication header of the API is checked before the body is read.",
            "An API key belongs to one service; shared keys make authentication impossible to trace.",
            "{person} moved API authentication from {component} to the gateway so that clients sign in once.",
            "Rotate the API key every {number} days and keep the old one valid for an hour.",
        ),
        (
            "La autenticación de la API usa un token que dura {number} minutos.",
            "Sin autenticación, la API responde 401 y {component} lo anota.",
            "{person} pide que cada cliente de la API tenga su propia clave.",
        ),
    ),
    Topic(
        "Error handling",
        "Manejo de errores",
        (
            "Error handling in {component} starts with a type for each error that a caller can act on.",
            "An error that is caught and not handled is an error that {person} finds at three in the morning.",
            "Say in the error what failed, where, and what to do next; error handling is writing for a reader.",
            "{component} retries a timeout {number} times and treats a bad request as final.",
            "Good error handling keeps the first error: the ones after it are usually its echoes.",
            "Do not use an empty result to mean error; {component} did so and lost {number} rows.",
        ),
        (
            "El manejo de errores en {component} distingue lo pasajero de lo definitivo.",
            "Un error sin mensaje útil le costó {number} horas al equipo de {team}.",
            "{person} escribe primero el manejo de errores y después el camino feliz.",
        ),
    ),
    Topic(
        "Performance optimization",
        "Optimización del rendimiento",
        (
            "Performance optimization of {component} began with a profile and not with an opinion.",
            "Batching {number} rows a call gave more performance than any other optimization in {component}.",
            "Measure performance at the slowest percentile: the average hides what people complain about.",
            "The optimization that {person} proposed traded memory for performance and paid for itself.",
            "A cache in front of {component} cut the latency to {number} milliseconds.",
            "Performance work ends when the target is met; optimization past it is a hobby.",
        ),
        (
            "La optimización del rendimiento de {component} empezó con un perfil.",
            "{person} bajó la latencia a {number} milisegundos agrupando las llamadas.",
            "Medir el rendimiento en el peor caso evita optimizaciones inútiles.",
        ),
    ),
    Topic(
        "Security best practices",
        "Buenas prácticas de seguridad",
        (
            "Security best practices for {component}: least privilege, short tokens, patched images.",
            "Of the security practices the best is the boring one: {team} reviews access every {number} days.",
            "A secret in an environment file is no security; best practices keep it in a vault.",
            "{person} teaches best practices of security with the incidents that we had ourselves.",
            "Validate input at the border of {component}; security inside cannot make up for it.",
            "Best practices ask for two reviewers on every change to security rules.",
        ),
        (
            "Las buenas prácticas de seguridad en {component} empiezan por el menor privilegio.",
            "{team} revisa los permisos cada {number} días, sin excepciones.",
            "Un secreto en el repositorio deja de ser un secreto, repite {person}.",
        ),
    ),
    Topic(
        "Database schema",
        "Esquema de la base de datos",
        (
            "The database schema of {component} has one owner, {team}, and a history of migrations.",
            "A schema change in the database ships in two steps so that old and new code both run.",
            "Name columns in the database schema after what they hold and give their unit.",
            "{person} dropped {number} unused indexes from the database and nobody noticed, but the writes did.",
            "The schema says what the database promises; the code should not promise more.",
            "Foreign keys in the database schema of {component} are checked at night, in batches of {number}.",
        ),
        (
            "El esquema de la base de datos de {component} cambia en dos pasos.",
            "{person} documentó el esquema y borró {number} índices que nadie usaba.",
            "La base de datos promete lo que dice su esquema, nada más.",
        ),
    ),
)

NEIGHBOURS: tuple[Topic, ...] = (
    Topic(
        "Pipelines and filters",
        "Tuberías y filtros",
        (
            "A pipeline in {component} is a chain of filters, each of which sees one message.",
            "{team} runs {number} pipelines and restarts none of them by hand.",
            "A filter that changes its input cannot be tried again; write a new message instead.",
            "Backpressure belongs to the pipeline, not to the filter that {person} happens to be fixing.",
        ),
        ("Cada filtro de {component} recibe un mensaje y entrega otro.", "{team} mantiene {number} tuberías."),
    ),
    Topic(
        "Functions and tools",
        "Funciones y herramientas",
        (
            "A function registered in {component} declares its arguments and a timeout of {number} seconds.",
            "Tools that write should say so in their name, as {person} insists.",
            "The model picks a tool by its description, so the description is part of the code.",
            "{component} loads functions at start and refuses two of the same name.",
        ),
        ("Una función de {component} declara sus argumentos.", "{person} probó {number} herramientas en una tarde."),
    ),
    Topic(
        "Deployment and rollback",
        "Despliegue y vuelta atrás",
        (
            "{team} deploys {component} behind a switch and watches it for {number} minutes.",
            "A rollback that was never rehearsed is a hope.",
            "Keep the last {number} images of {component}; the one you need is never the newest.",
            "{person} writes the way back before the way forward.",
        ),
        ("{team} despliega {component} y observa {number} minutos.", "{person} ensaya la vuelta atrás cada mes."),
    ),
    Topic(
        "Logging and monitoring",
        "Registros y monitoreo",
        (
            "{component} writes one line a request, with a trace id and no personal data.",
            "An alert that fires {number} times a week teaches {team} to sleep through it.",
            "Monitor what users feel: latency, failures, staleness.",
            "{person} deleted half of the dashboards and found the outage faster.",
        ),
        ("{component} escribe una línea por petición.", "Una alerta que suena {number} veces deja de oírse."),
    ),
    Topic(
        "Vector search",
        "Búsqueda vectorial",
        (
            "Nearest neighbours in {component} are approximate: ask for {number} and keep ten.",
            "Cosine distance ignores length, so a copied paragraph and its double rank alike.",
            "An embedding of one model says nothing to another, as {person} found out.",
            "Recall is measured against brute force, on vectors that {team} did not choose.",
        ),
        ("La búsqueda en {component} es aproximada.", "{person} midió la exhaustividad con {number} vectores."),
    ),
)

CAREERS: tuple[Topic, ...] = (
    Topic(
        "Careers: the interview",
        "Carrera: la entrevista",
        (
            "Interviews at {team} last {number} minutes and have no riddles.",
            "{person} asks candidates to read code, since reading is most of the job.",
            "Take notes in the interview and decide the day after.",
            "A career page that lists {number} requirements loses the careful applicants.",
        ),
        ("Las entrevistas de {team} duran {number} minutos.", "{person} pide leer código, no adivinanzas."),
    ),
    Topic(
        "Careers: growing into the role",
        "Carrera: crecer en el puesto",
        (
            "In the first {number} days at {team} you ship something small and break something cheap.",
            "{person} changed careers at forty and calls it the best refactoring of a life.",
            "A senior engineer at {team} is known by the questions that others stop having.",
            "Mentoring takes two hours a week and pays after {number} of them.",
        ),
        ("En los primeros {number} días se aprende a preguntar.", "{person} cambió de carrera a los cuarenta."),
    ),
)

PAINS: tuple[Topic, ...] = (
    Topic(
        "Pain point: onboarding takes days",
        "Punto de dolor: la incorporación tarda días",
        (
            "New people at {team} wait {number} days for access to {component}.",
            "The setup guide of {component} was last right two years ago, says {person}.",
            "Onboarding hurts where a step has no owner.",
            "{number} of the complaints name the same missing permission.",
        ),
        ("La incorporación a {team} tarda {number} días.", "La guía de {component} ya no sirve, dice {person}."),
    ),
    Topic(
        "Pain point: uploads fail silently",
        "Punto de dolor: las cargas fallan en silencio",
        (
            "Users of {component} upload {number} files and find half of them.",
            "Nothing on the screen says that a file was refused; {person} opened the ticket twice.",
            "The queue behind {component} drops what it cannot parse.",
            "{team} answers the same question about uploads every week.",
        ),
        ("{component} pierde archivos sin avisar.", "{person} abrió {number} reclamos por la misma carga."),
    ),
)

NOTES: tuple[Topic, ...] = (
    Topic(
        "Sergio personality traits: openness",
        "Rasgos de personalidad de Sergio: apertura",
        (
            "Sergio collects other people's methods and returns them improved, {number} at last count.",
            "His openness shows when a plan of {team} fails: he asks what it was good for.",
            "Sergio reads outside his field and quotes {person} at the wrong moments, on purpose.",
            "This personality trait scores high in {number} of his talks.",
        ),
        (
            "Sergio pregunta primero para qué sirve el método.",
            "Su apertura se nota cuando el plan de {team} falla.",
            "Rasgos de personalidad: curioso, terco, generoso con {person}.",
        ),
    ),
    Topic(
        "Sergio personality traits: conscientiousness",
        "Rasgos de personalidad de Sergio: responsabilidad",
        (
            "Sergio keeps {number} lists and loses none of them.",
            "Promises made to {person} are written down before the call ends.",
            "The personality behind the voice is orderly, and it hides this well.",
            "He prepares a class for {team} twice: once to know it, once to forget it.",
        ),
        (
            "Sergio anota cada promesa antes de colgar.",
            "Prepara la clase de {team} dos veces.",
            "La responsabilidad de Sergio sorprende a {person}.",
        ),
    ),
    Topic(
        "Sergio personality traits: warmth in conflict",
        "Rasgos de personalidad de Sergio: calidez en el conflicto",
        (
            "In an argument Sergio lowers his voice and raises the question.",
            "He tells {person} what he heard before he says what he thinks.",
            "After {number} years of family therapy he distrusts quick agreement.",
            "Warmth, in these notes, is a trait that can be seen from outside.",
        ),
        (
            "En una discusión Sergio baja la voz y sube la pregunta.",
            "Le repite a {person} lo que oyó antes de opinar.",
            "Desconfía del acuerdo rápido desde hace {number} años.",
        ),
    ),
)

JOKES: tuple[str, ...] = (
    "Funny jokes, {topic}: we fixed it in production, where else would it be broken.",
    "Funny thing about {topic}: everybody wants it and nobody wants the meeting. The jokes write themselves.",
    "{person} tells jokes about {topic} with no punch line; they are asynchronous, and still funny.",
    "Jokes about {topic} come in batches of {number}, and one of them is always quarantined. Funny, isn't it.",
    "Chiste de {team}: la respuesta a {topic} llega mañana, como siempre.",
)
RHETORIC: tuple[str, ...] = (
    "Who has not, at least once, ignored {topic}? Who has not paid for it?",
    "We plan, we measure, we repeat: that is {topic}, and that is all of it.",
    "Not a wall but a door, not a rule but a habit: so {person} speaks of {topic}.",
    "Think of {topic} as a garden; weeds need no deployment.",
    "¿Y qué es {topic}, sino la cortesía con quien viene después?",
)

SLOTS: dict[str, tuple[str, ...]] = {
    "component": (
        "the gateway", "the web interface", "the indexer", "the document store", "the chat service", "the scheduler",
        "the model router", "the upload worker", "the billing job", "the admin console", "the audit service",
    ),
    "person": ("Amara", "Benoît", "Chidi", "Daniela", "Eszter", "Farid", "Graciela", "Hiroshi", "Inés", "Jarosław"),
    "team": ("Operations", "Platform", "Data", "Support", "Research", "Integrations"),
}  # fmt: skip

# Scripts and marks that a careless pipeline mangles: right to left, CJK, combining marks, joined emoji, a soft hyphen.
UNICODE_LINES: tuple[str, ...] = (
    "שלום עולם، مرحبا بالعالم (RTL)",
    "数据库迁移不丢失任何一行。データは一行も失わない。",
    "Combining: e\u0301 n\u0303 o\u0308 \u1e9b\u0323; precomposed: é ñ ö.",
    "👩‍👩‍👧‍👦 🏳️‍🌈 🇨🇱 👍🏽 are one glyph each",
    "soft\u00adhyphen, non\u00a0breaking, zero\u200bwidth, \u202eoverride\u202c",
    "नमस्ते दुनिया — Привет, мир — Γειά σου",
)

AUTHORS: tuple[str, ...] = ("Sergio", "Amara Okafor", "Open WebUI contributors", "Inés Quiroga", "Jarosław Nowak")
CATEGORIES: tuple[str, ...] = ("guide", "reference", "incident", "discussion", "note")
TRAITS: tuple[str, ...] = ("openness", "conscientiousness", "extraversion", "agreeableness", "neuroticism")
DEVICES: tuple[str, ...] = ("anaphora", "rhetorical question", "metaphor", "antithesis", "tricolon")
HUMOR_TYPES: tuple[str, ...] = ("deadpan", "wordplay", "self-irony", "absurd")
FRAMEWORKS: tuple[str, ...] = ("Big Five", "systemic therapy", "attachment", "nonviolent communication")
