"""Spanish: the sentences of documents and the ways in which users ask for them."""

from __future__ import annotations

from grammar import Language, lines
from spanish import AREAS, KINDS

SENTENCES = {
    "summary": """Este documento presenta el trabajo de {c} en torno a {s}.
    El presente documento recoge cómo {c} va a abordar {s} durante los próximos {n} meses.
    A lo largo de estas páginas se explica por qué el proyecto de {s} es una prioridad para {c}.
    La propuesta de {c} se centra en {s} y parte de una idea sencilla: {g}.
    Con este trabajo, {c} quiere avanzar en {s} y, al mismo tiempo, {g}.
    El objetivo principal es {g}, con {s} como eje de todas las decisiones.
    {C} cuenta con {t} y con {r} para llevar adelante {s}.
    {C} reserva {m} € para {s} en la primera fase.
    Se espera mejorar {k} un {p} % en {n} meses.
    Todo el plan sobre {s} se apoya en dos ideas: {g1} y {g2}.""",
    "market": """La demanda relacionada con {s} ha crecido un {p} % en los últimos {n} años.
    El mercado de {s} está repartido entre varias empresas pequeñas y ninguna domina.
    Los clientes que buscan {s} valoran sobre todo la confianza, el plazo y la claridad.
    En la zona donde trabaja {c} hay espacio para una oferta distinta de {s}.
    Los competidores ofrecen {s} con precios parecidos y poco servicio.
    {C} puede diferenciarse si consigue {g}.
    Las entrevistas con clientes confirman el interés por {s}.
    La oportunidad es clara: {g} antes que los demás.
    Se estima un mercado de {m} € al año para {s}.""",
    "offer": """La oferta de {c} para {s} combina calidad, plazo y un trato directo.
    Nuestra propuesta sobre {s} incluye {r} y el apoyo de {t}.
    El cliente recibe una solución completa para {s}, con un solo interlocutor.
    Lo que distingue a {c} es la manera de {g}.
    Cada entrega relacionada con {s} se acompaña de un informe breve y claro.
    El servicio de {s} se adapta al tamaño y al ritmo de cada cliente.
    {C} garantiza una respuesta en {n} días laborables.
    También se ofrece formación inicial sobre {s} sin coste añadido.""",
    "actions": """Para avanzar en {s}, {c} pondrá en marcha estas acciones:
    El trabajo sobre {s} se organiza en tareas concretas:
    Las líneas de trabajo de {c} para {s} son las siguientes:
    Estas son las medidas previstas por {t}:
    El plan de {c} se traduce en los siguientes pasos:""",
    "actions_end": """De la ejecución responde {t}, que informará cada {n} semanas.
    Con ello {c} espera {g}.
    Para apoyar estas tareas se dispone de {r}.
    El avance de {s} se revisará al final de cada mes.""",
    "goals": """Los objetivos de {c} en relación con {s} son:
    Con {s}, {c} quiere alcanzar estas metas:
    Las prioridades para {s} durante este ejercicio son:
    El trabajo en torno a {s} persigue lo siguiente:""",
    "goals_end": """Cada objetivo tiene una fecha y una persona responsable.
    El resultado se medirá con {k}.
    De su seguimiento se encarga {t}.
    {C} revisará estas metas cada {n} meses.""",
    "audience": """El mensaje sobre {s} se dirige a personas que ya conocen el problema y buscan ayuda.
    Nuestro público principal son clientes interesados en {s} que comparan antes de decidir.
    Las personas que siguen a {c} quieren información práctica sobre {s}.
    El tono será cercano, claro y sin tecnicismos.
    Un {p} % de las consultas recibidas por {c} trata de {s}.
    Hay dos perfiles: quien decide la compra y quien usa el servicio cada día.
    {C} hablará con ejemplos reales y cifras comprobables.
    Para conocer mejor a este público se va a {a}.""",
    "channels": """Para dar a conocer {s} se usarán estos canales:
    Los canales elegidos por {c} para {s} son:
    El mensaje de {c} sobre {s} llegará por varias vías:
    Cada canal cumple una función distinta en la difusión de {s}:""",
    "timeline": """El calendario de {s} se reparte en fases:
    Las fechas previstas por {c} para {s} son:
    El trabajo de {c} avanzará por etapas:
    La puesta en marcha de {s} durará {n} meses:""",
    "kpis": """Para medir el avance de {s}, {c} seguirá estos indicadores:
    El éxito de {s} se comprobará con datos:
    Los indicadores acordados por {t} son:
    Cada mes {c} publicará estas cifras sobre {s}:""",
    "budget": """La inversión prevista por {c} para {s} es la siguiente:
    El presupuesto de {s} se reparte así:
    Las condiciones económicas de {c} para {s} son:
    Los importes que siguen cubren {s} durante {n} meses:""",
    "budget_end": """Los importes no incluyen impuestos.
    El retorno se espera a partir del mes {n}.
    Cualquier cambio lo aprobará {t}.
    {C} revisará estas cifras cada trimestre.""",
    "risks": """Los principales riesgos de {s} y la respuesta prevista son:
    Al trabajar en {s}, {c} vigilará lo siguiente:
    Estos son los riesgos que {t} ha identificado:
    La experiencia de {c} con {s} aconseja prestar atención a estos puntos:""",
    "closing": """En los próximos {n} días, {c} va a {a}.
    El siguiente paso es {a} y presentar los resultados a {t}.
    Para que el proyecto de {s} avance, hace falta {a} cuanto antes.
    Este documento se revisará cada {n} meses con {t}.
    {C} confía en {s} como vía para {g}.
    Cualquier duda sobre {s} puede dirigirse a {t}.
    Con constancia, el trabajo en {s} permitirá {g}.
    El compromiso de {c} es claro: {g}.
    Así, {c} podrá {g1} sin dejar de {g2}.""",
    "needs": """Tras varias conversaciones, {c} ha detectado una necesidad clara en torno a {s}.
    La situación actual muestra que la gestión de {s} consume demasiado tiempo y dinero.
    Hoy el trabajo con {s} depende de tareas manuales y de información dispersa.
    El reto consiste en {g} sin aumentar los costes.
    Los datos indican que {k} ha empeorado un {p} % este año.
    {C} conoce bien este problema y ha ayudado a {n} clientes parecidos.
    Resolver {s} permitirá {g}.""",
    "benefits": """Con {c}, el cliente obtiene ventajas concretas en {s}:
    Elegir a {c} para {s} aporta lo siguiente:
    Los beneficios de nuestra solución para {s} son:""",
    "scope": """El presente documento regula {s} en {c}.
    Este texto explica cómo se trabaja con {s} y a quién afecta.
    La finalidad de este documento es ordenar {s} y {g}.
    Su contenido se aplica a todas las personas de {c} que participan en {s}.
    {C} quiere que el trabajo con {s} sea claro, medible y fácil de mantener.
    Quedan incluidas todas las actividades relacionadas con {s}.
    El documento entra en vigor en {q} y lo mantiene {t}.
    Cualquier excepción relativa a {s} debe aprobarla {t}.""",
    "roles": """En {c}, las responsabilidades sobre {s} se reparten así:
    Cada persona que interviene en {s} conoce su función:
    Las funciones relacionadas con {s} son:""",
    "procedure": """El procedimiento de {c} para {s} consta de los siguientes pasos:
    Para realizar {s} de forma segura, siga este orden:
    El trabajo diario con {s} se hace así:
    Cada vez que se trabaje en {s}, el personal de {c} debe:""",
    "control": """La calidad de {s} se comprueba con {k}.
    Los registros de {s} se guardan durante {n} años.
    Una vez al mes, {t} revisa una muestra de los trabajos sobre {s}.
    {C} considera aceptable una desviación del {p} %.
    Si se detecta un error, se anota, se corrige y se busca la causa.
    Para el control se utiliza {r}.""",
    "principles": """En {c}, el trabajo con {s} se rige por estos principios:
    Los compromisos de {c} en materia de {s} son:
    Toda actuación relacionada con {s} respeta lo siguiente:""",
    "rules": """Las normas de {c} sobre {s} son:
    Para aplicar {s} con equidad se establecen estas reglas:
    El funcionamiento de {s} sigue estas normas:""",
    "rights": """La plantilla de {c} tiene derecho a conocer todo lo relativo a {s}.
    Cada persona puede plantear dudas o quejas sobre {s} sin temor a represalias.
    Las decisiones sobre {s} se comunican por escrito en un plazo de {n} días.
    {C} trata los datos personales con reserva.
    A cambio, se espera un uso responsable de {s}.
    El incumplimiento grave se estudiará junto con {t}.""",
    "results": """Durante el periodo, los ingresos de {c} ligados a {s} llegaron a {m} €.
    Los gastos asociados a {s} sumaron {m} €, un {p} % menos que el año anterior.
    El análisis muestra que la línea de {s} aporta un {p} % de las ventas de {c}.
    La evolución de {k} ha sido favorable.
    {C} ha logrado {g} gracias a {s}.
    El segundo trimestre fue el más fuerte, con un aumento del {p} %.
    La partida más importante fue la de personal.""",
    "forecast": """Para el próximo ejercicio, {c} prevé que la línea de {s} crezca un {p} %.
    La previsión de {s} parte de datos prudentes.
    Si se cumple el plan, la línea de {s} generará {m} € en {n} meses.
    El escenario más bajo supone una caída del {p} %.
    {C} revisará la previsión cada trimestre.
    La inversión necesaria se estima en {m} €.""",
    "parties": """De una parte, {c}, en adelante el Prestador; de otra, el Cliente.
    El presente contrato se celebra entre {c}, como Prestador, y el Cliente.
    Ambas partes se reconocen capacidad para acordar lo relativo a {s}.
    Las partes desean regular {s} en los términos que siguen.
    {C} declara contar con los medios necesarios para {s}.
    El Cliente declara conocer las características de {s}.""",
    "object": """El objeto de este contrato es {s}, que {c} prestará al Cliente.
    Por este contrato, {c} se obliga a realizar {s} en favor del Cliente.
    El alcance de {s} se detalla en el anexo {n}.
    Cualquier ampliación de {s} requerirá acuerdo por escrito.
    {C} actuará con la diligencia propia de su profesión.
    La finalidad compartida es {g}.""",
    "obligations": """Las obligaciones de las partes respecto de {s} son:
    Para el buen fin de {s}, {c} y el Cliente se comprometen a lo siguiente:
    Durante la vigencia de este contrato sobre {s}, las partes deberán:""",
    "payment": """El Cliente pagará a {c} la cantidad de {m} € por {s}.
    El precio de {s} asciende a {m} €, más impuestos.
    Las facturas se abonarán a los {n} días de su recepción.
    El retraso en el pago dará lugar a un interés del {p} % anual.
    {C} podrá actualizar el precio una vez al año.""",
    "secrecy": """Las partes guardarán secreto sobre la información relativa a {s}.
    La información que {c} reciba durante {s} se tratará como confidencial.
    Este deber se mantendrá {n} años después de terminar el contrato.
    Los datos personales se tratarán conforme a la normativa vigente.
    Ninguna de las partes cederá datos de {s} a terceros sin permiso.""",
    "term": """Este contrato sobre {s} tendrá una duración de {n} meses.
    La vigencia comienza con la firma y se prorroga por periodos iguales.
    Cualquiera de las partes podrá resolverlo con {n} días de aviso.
    El incumplimiento grave permitirá a {c} o al Cliente poner fin al acuerdo.
    Al terminar, {c} devolverá la documentación de {s}.""",
    "law": """Para lo no previsto, este contrato sobre {s} se rige por la ley del domicilio de {c}.
    Las partes intentarán resolver de buena fe cualquier diferencia sobre {s}.
    A falta de acuerdo, se acudirá a mediación antes que a los tribunales.
    En prueba de conformidad, {c} y el Cliente firman este contrato.
    Todo cambio deberá constar por escrito y con la firma de ambas partes.""",
    "architecture": """La solución de {s} se divide en {n} módulos independientes.
    El diseño de {c} para {s} separa la entrada de datos, el proceso y el registro.
    Los componentes de {s} se comunican mediante una interfaz documentada.
    {C} utiliza {r} para reducir errores.
    Se ha buscado un diseño sencillo que permita {g}.
    Cada módulo puede sustituirse sin detener {s}.""",
    "requirements": """La solución para {s} deberá cumplir estos requisitos:
    Los requisitos que {c} establece para {s} son:
    Para aceptar {s}, el sistema debe cubrir lo siguiente:""",
    "tests": """Las pruebas de {s} se harán en {n} rondas.
    Antes de la entrega, {t} comprobará {s} con datos reales.
    Se acepta el resultado cuando {k} cumple lo acordado.
    {C} corregirá los fallos en un plazo de {n} días.
    Cada prueba queda registrada con fecha y responsable.
    También se verificará la carga máxima prevista para {s}.""",
    "swot": """El diagnóstico de {c} respecto a {s} es el siguiente:
    Antes de actuar en {s} conviene conocer la situación de partida:
    El análisis de {s} realizado por {t} señala:""",
    "protocol": """Cada consulta sobre {s} se atiende en este orden:
    Cuando un cliente pregunta a {c} por {s}, el equipo debe:
    El protocolo de {c} para {s} es breve:""",
    "faq": """Las preguntas más comunes sobre {s} tienen una respuesta preparada.
    La duda más frecuente sobre {s} es el plazo: la respuesta es {n} días.
    Muchos clientes preguntan por el precio de {s}; {c} lo publica en su web.
    Si la pregunta no está en la lista, se consulta a {t}.
    {C} actualiza estas respuestas cada mes.
    Ante la duda, es mejor llamar de nuevo que dar un dato incorrecto.""",
    "complaints": """Toda reclamación sobre {s} se registra el mismo día.
    Cuando un cliente no está satisfecho con {s}, primero se escucha y después se propone una salida.
    Las reclamaciones graves pasan a {t} en menos de {n} horas.
    {C} responde siempre por escrito.
    Después de cada caso se busca la causa para que no se repita.
    Un {p} % de las quejas se resuelve en el primer contacto.""",
    "industry": """En el sector de {i}, esta propuesta resulta oportuna.
    El sector de {i} exige rapidez y confianza.
    Se tiene en cuenta la situación del sector: {i}.
    La actividad de {c} se enmarca en {i}.""",
    "reader": """El documento se dirige a {u}.
    Está pensado para {u}.
    Sus destinatarios son {u}.
    El público al que se dirige {c} es {u}.""",
    "size": """Por su tamaño ({z}), {c} puede decidir con rapidez.
    El plan se ajusta al tamaño de la organización: {z}.
    Se ha previsto para una organización de este tamaño: {z}.""",
}

ITEMS = {
    "channels": """Web propia: páginas claras con precios y contacto
    Correo electrónico: un envío cada {n} semanas con novedades
    Redes sociales: publicaciones breves con casos reales
    Prensa local: una nota en cada fase
    Ferias del sector: presencia en {n} encuentros al año
    Vídeo: piezas de {n} minutos con demostraciones
    Blog: artículos prácticos sobre {s}
    Puntos de venta: folletos y muestras sobre {s}""",
    "benefits": """Ahorro de un {p} % en costes desde el primer año
    Un único interlocutor durante todo el proyecto
    Plazos cortos: {n} semanas desde la firma
    Experiencia demostrada en {s}
    Soporte incluido durante {n} meses
    Informes mensuales claros
    Condiciones flexibles y sin permanencia
    Apoyo directo de {t}""",
    "principles": """Respeto: cada persona recibe el mismo trato
    Claridad: la información sobre {s} es pública y comprensible
    Rapidez: ninguna solicitud espera más de {n} días
    Responsabilidad: toda decisión tiene una persona al frente
    Confidencialidad: los datos se usan solo para su fin
    Mejora: los errores sirven para aprender
    Coherencia: lo que se promete se cumple
    Cercanía: se escucha antes de responder""",
    "rules": """La solicitud se presenta por escrito con {n} días de antelación
    La respuesta se da en un plazo máximo de {n} días
    En caso de varias solicitudes, se atiende al orden de llegada
    Las excepciones las aprueba {t}
    Cada solicitud relativa a {s} queda registrada
    No se admite ningún trato desigual
    La norma se revisa una vez al año
    El gasto máximo por persona es de {m} €""",
    "obligations": """El Prestador realizará {s} en los plazos acordados
    El Cliente facilitará la información necesaria en {n} días
    El Prestador informará cada mes del avance
    El Cliente pagará las facturas a su vencimiento
    El Prestador contará con un seguro de {m} €
    Ambas partes nombrarán una persona de contacto
    El Cliente comunicará los defectos en {n} días
    Las partes colaborarán de buena fe""",
    "requirements": """El sistema registrará cada operación de {s}
    El tiempo de respuesta será inferior a {n} segundos
    La información se guardará cifrada
    Habrá una copia de seguridad cada {n} horas
    El acceso exigirá usuario y contraseña
    La interfaz estará disponible en {n} idiomas
    El diseño admitirá {n} veces la carga actual
    Los errores se notificarán a {t}""",
    "procedure": """Preparar el puesto y comprobar el material
    Leer la orden de trabajo y confirmar las cantidades
    Revisar que el trabajo con {s} cumple las condiciones de seguridad
    Realizar la tarea según la ficha
    Anotar la hora y el resultado
    Comunicar cualquier anomalía a {t}
    Limpiar la zona y guardar las herramientas
    Firmar el registro al terminar""",
    "protocol": """Saludar y preguntar el nombre
    Escuchar sin interrumpir
    Repetir la consulta con otras palabras
    Buscar la respuesta en la base de conocimiento
    Explicar la solución paso a paso
    Confirmar que la duda sobre {s} está resuelta
    Anotar la consulta en el registro
    Despedirse y ofrecer más ayuda
    Llamar de nuevo en {n} días si queda algo pendiente""",
    "strengths": """experiencia en {s}
    equipo comprometido
    relación cercana con los clientes
    costes controlados""",
    "weaknesses": """poca visibilidad de {s}
    procesos sin documentar
    dependencia de pocos proveedores
    falta de datos fiables""",
    "opportunities": """demanda creciente de {s}
    ayudas públicas disponibles
    nuevos canales de venta
    alianzas con socios locales""",
    "threats": """presión sobre los precios
    cambios en la normativa
    competidores con más recursos
    subida de los costes""",
    "costs": """Personal
    Materiales
    Tecnología
    Comunicación
    Formación
    Asesoría externa
    Puesta en marcha
    Mantenimiento
    Transporte
    Imprevistos""",
}

WORDS = {
    "this": ("este servicio",),
    "company": ("la empresa", "La empresa"),
    "kpi_header": ("Indicador", "Actual", "Objetivo"),
    "cost_header": ("Concepto", "Importe"),
    "result_header": ("Periodo", "Ingresos", "Gastos"),
    "swot": ("Fortalezas", "Debilidades", "Oportunidades", "Amenazas"),
    "total": ("Total",),
    "phase": ("Mes {0}", "Semana {0}", "Fase {0}", "Trimestre {0}"),
    "span": ("Meses {0} a {1}", "Semanas {0} a {1}"),
    "when": ("enero", "marzo", "abril", "junio", "septiembre", "octubre", "el próximo trimestre"),
    "units": ("€", "días", "min", "ms"),
}

TITLES = """{K}: {s}
{K} de {c}: {s}
{K} para {c}: {s}
{K} sobre {s}
{K} – {s}
{s}: {k}
{s}: {k} de {c}
{K}: {s} en {c}
{K} | {s}
{K} de {c} sobre {s}"""

# {k} the type with its article, {b} without, {d} any name for a document; {s} and {c} as above.
QUERIES = {
    "plain": """{b} sobre {s}
    {b} de {s}
    {b} para {s}
    {b} centrado en {s}
    {b} acerca de {s}
    {b}: {s}
    {b} para un negocio de {s}
    {b} relacionado con {s}
    {k} sobre {s}
    {k} que trate de {s}
    {s}
    {s}
    {s}
    {s}: {b}
    {s} ({b})
    {d} sobre {s}
    cómo mejorar {s}
    cómo organizar {s}
    todo sobre {s}
    mejorar {s} este año
    queremos empezar con {s}
    vamos a lanzar {s} y hace falta {k}
    tenemos un proyecto de {s}
    hay que preparar {k} para {s}
    tema: {s}""",
    "asked": """necesito {k} sobre {s}
    necesitamos {k} para {s}
    necesitamos {k} de {s}
    redacta {k} sobre {s}
    redacta {k} de {s}
    escribe {k} para {s}
    escribe {d} sobre {s}
    prepara {k} acerca de {s}
    elabora {k} centrado en {s}
    genera {k} sobre {s}
    crea {k} para {s}
    haz {k} de {s}
    hazme {k} sobre {s}
    quiero {k} sobre {s}
    quisiera {k} relacionado con {s}
    me gustaría tener {k} para {s}
    por favor, redacta {k} sobre {s}
    por favor prepara {d} de {s}
    ¿puedes escribir {k} sobre {s}?
    ¿podrías preparar {k} para {s}?
    ¿me ayudas con {k} de {s}?
    ayúdame a preparar {k} sobre {s}
    desarrolla {k} para {s}
    diseña {k} para {s}
    busco {k} sobre {s}
    hace falta {k} para {s}""",
    "named": """{b} de {c} sobre {s}
    {b} para {c} sobre {s}
    {b} para {c}: {s}
    {b} para {c}, una empresa de {s}
    {b} para {c}, una empresa que vende {s}
    {b} para {c}, una startup que ofrece {s}
    {b} para {c}, tienda de {s}
    {b} de {c} para {s}
    {b} sobre {s} para {c}
    {b} sobre {s} en {c}
    {b} de {s} para la empresa {c}
    {c}: {b} sobre {s}
    {c}: {s}
    {c} - {s}
    {c} necesita {k} sobre {s}
    {c} quiere {k} para {s}
    {c} va a lanzar {s} y necesita {k}
    {c} se dedica a {s}. Redacta {k}
    {c} vende {s}; prepara {k}
    somos {c} y necesitamos {k} para {s}
    somos {c}, vendemos {s} y queremos {k}
    soy de {c} y busco {k} sobre {s}
    en {c} queremos mejorar {s}
    para {c}: {b} de {s}
    redacta {k} para {c} sobre {s}
    escribe {k} para {c} acerca de {s}
    prepara {k} de {c} centrado en {s}
    genera {k} para la empresa {c}, dedicada a {s}
    crea {k} para {c}. Tema: {s}
    ¿cómo puede {c} mejorar {s}?
    ¿puedes preparar {k} sobre {s} para {c}?
    ayuda a {c} con {k} de {s}
    {s} en {c}
    {s} para {c}
    {s}, {c}""",
    "tails": """Que sea breve.
    Incluye indicadores y presupuesto.
    Es urgente.
    Con un tono formal.
    Con objetivos y calendario.
    Gracias.
    Lo necesito para mañana.
    Es para la dirección.
    Añade riesgos y próximos pasos.
    Sin rodeos.""",
    "documents": """un documento
    un texto
    un informe
    un plan
    una propuesta
    un borrador
    una guía""",
}

SPANISH = Language(
    code="es",
    areas=AREAS,
    kinds=KINDS,
    sentences={name: lines(block) for name, block in SENTENCES.items()},
    items={name: lines(block) for name, block in ITEMS.items()},
    words=WORDS,
    titles=lines(TITLES),
    queries={name: lines(block) for name, block in QUERIES.items()},
)
