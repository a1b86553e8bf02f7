"""Chat templates that show tools and write tool calls as those of the model families do, in a few lines each."""

_TURN = "<|im_start|>{{ m.role }}\n{% if m.content %}{{ m.content }}{% endif %}"
HERMES = (
    "{% if tools %}<tools>{% for t in tools %}{{ t | tojson }}\n{% endfor %}</tools>{% endif %}{% for m in messages %}"
    + _TURN
    + "{% for c in m.tool_calls or [] %}{% set c = c.function or c %}\n<tool_call>\n"
    '{"name": "{{ c.name }}", "arguments": {{ c.arguments | tojson }}}\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}'
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% if tools %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}{% for m in messages %}"
    "{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]{% elif m.tool_calls %}{{ m.content or '' }}[TOOL_CALLS] ["
    '{% for c in m.tool_calls %}{{ (c.function | tojson)[:-1] }}, "id": "{{ c.id or \'a1b2c3d4e\' }}"}'
    "{% if not loop.last %}, {% endif %}{% endfor %}]{{ eos_token }}{% else %}"
    " {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
MISTRAL_2025 = (
    "{{ bos_token }}{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}{% for m in messages %}"
    "{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]{% else %}{{ m.content or '' }}{% for c in m.tool_calls or [] %}"
    "[TOOL_CALLS]{{ c.function.name }}[ARGS]{{ c.function.arguments | tojson }}{% endfor %}"
    "{{ eos_token }}{% endif %}{% endfor %}"
)
LLAMA = (
    "{{ bos_token }}{% if tools %}Environment: ipython\n{% for t in tools %}{{ t | tojson(indent=4) }}\n{% endfor %}{% endif %}"
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{% if m.tool_calls %}"
    '{% for c in m.tool_calls %}{"name": "{{ c.function.name }}", "parameters": {{ c.function.arguments | tojson }}}'
    "{% if not loop.last %}; {% endif %}{% endfor %}{% else %}{{ m.content }}{% endif %}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
TEMPLATES = {"Hermes": HERMES, "Mistral": MISTRAL, "Mistral of 2025": MISTRAL_2025, "Llama 3": LLAMA}
ENDS = ("<|im_end|>\n", "</s>", "<|eot_id|>")  # of a turn
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a place",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    },
}


def call(name, arguments):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}
