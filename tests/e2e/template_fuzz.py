# SPDX-License-Identifier: MIT
"""Random Jinja: a grammar that knows what each expression is, so that most of it renders, and a little of what
does not. Integers stay small, since Tokenlane has 64 bits of them."""

VARIABLES = {
    "trusted": {"bos_token": "<s>", "flag": True, "nothing": None, "sep": ", "},
    "untrusted": {
        "s": "Hello, World", "e": "", "w": "  two words\n and\tmore ", "u": "naïve Straße 中文 😀 ŉ", "h": "<b>&\"it's\"</b>",
        "dotted": "a.b.c.a", "num": "42", "real": "-3.25", "lines": "a\n\nb  \nc\n", "title": "some-title (of it)",
        "i": 7, "z": 0, "n": -13, "f": 2.5, "g": -0.1, "big": 1e20, "yes": True, "no": False,
        "l": [3, 1, 2, 3], "ls": ["b", "A", "c", "a"], "lf": [0.5, -2, 3], "empty": [], "nested": [[1, 2], [], [3]],
        "mixed": [1, "1", 1.0, None, True, [], {}], "d": {"k": 1, "a": "x", "Z": [1, 2]}, "ds": {"b": "2", "a": "1"}, "ed": {},
        "rows": [{"name": "Bob", "age": 31, "on": True}, {"name": "alice", "age": 25, "on": False, "x": {"y": 1}},
                 {"name": "Cy", "age": 25, "on": True, "x": {"y": 2}}],
        "messages": [{"role": "system", "content": " Be brief. "}, {"role": "user", "content": "Hi\nthere"},
                     {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {"x": [1, 2.0, "ü"]}}}]}],
    },
}
NAMES = {
    "str": ["s", "e", "w", "u", "h", "dotted", "num", "real", "lines", "title", "sep", "bos_token", "messages[0].role",
            "messages[1]['content']", "rows[0].name", "d.a", "ds['b']"],
    "int": ["i", "z", "n", "d.k", "rows[1].age", "l[0]"],
    "float": ["f", "g", "big", "lf[0]"],
    "bool": ["yes", "no", "flag", "rows[0].on"],
    "ints": ["l", "empty", "nested[0]", "d.Z"],
    "strs": ["ls", "empty", "d", "ds", "u"],
    "dict": ["d", "ds", "ed", "rows[1]", "messages[0]"],
    "rows": ["rows", "rows[:2]", "rows[::-1]", "empty"],
    "any": ["nothing", "mixed", "nested", "nope", "d.nope", "messages", "rows[2].x", "nothing"],
}
TEXTS = ["", "a", " ", "b", "ab", ".", "\\n", "xyz", "World", "é", "中", "'", "%s", "A b", "-", "l", "1", "_x ", "<", "😀 "]
PAD = [" ", "*", "0"]


class Fuzz:
    def __init__(self, rng):
        self.rng = rng
        self.names = {k: list(v) for k, v in NAMES.items()}

    def pick(self, *options):
        choice = self.rng.choice(options)
        return choice() if callable(choice) else choice

    def some(self, kind, depth):
        """An expression of the kind: a leaf when it is deep, now and then one of another kind."""
        if self.rng.random() < 0.02:
            kind = self.rng.choice(list(NAMES))
        if depth <= 0 or self.rng.random() < 0.2:
            return self.leaf(kind)
        text = getattr(self, kind)(depth - 1)
        return f"({text})" if self.rng.random() < 0.9 else text

    def leaf(self, kind):
        if self.rng.random() < 0.6 or kind in ("dict", "rows", "any"):
            return self.rng.choice(self.names[kind])
        r = self.rng
        if kind == "str":
            text = r.choice(TEXTS)
            return f'"{text}"' if "'" in text or r.random() < 0.3 else f"'{text}'"
        if kind == "int":
            return str(r.choice([0, 1, 2, 3, 5, 10, 1_000, "0x1f", "1_0"]))
        if kind == "float":
            return str(r.choice([0.0, 0.5, 1.5, 2.675, 1e3, "2.5e-3", 3.0, 1e16]))
        if kind == "bool":
            return r.choice(["true", "false", "True", "False"])
        if kind == "ints":
            return "[" + ", ".join(str(r.randrange(-5, 9)) for _ in range(r.randrange(4))) + "]"
        return "[" + ", ".join(repr(r.choice(["a", "B", "", "é", "b c"])) for _ in range(r.randrange(4))) + "]"

    def small(self):
        return str(self.rng.choice([-3, -1, 0, 1, 2, 3, 5, 12]))

    def bound(self):
        return self.rng.choice(["", "", self.small()])

    def slice(self):
        step = self.rng.choice(["", "", ":", ":-1", ":2", ":-2"])
        return f"[{self.bound()}:{self.bound()}{step}]"

    def str(self, d):
        s, r = lambda: self.some("str", d), self.rng
        any_ = lambda: self.some(r.choice(list(NAMES)), d)
        return self.pick(
            lambda: f"{s()} + {s()}", lambda: f"{s()} ~ {any_()}", lambda: f"{any_()} ~ {any_()}", lambda: f"{s()} * {self.small()}",
            lambda: f"{s()}{self.slice()}", lambda: f"{s()}[{self.small()}]",
            lambda: f"{s()} | {r.choice(['upper', 'lower', 'title', 'capitalize', 'trim', 'string', 'e', 'urlencode', 'first', 'last', 'reverse', 'escape', 'forceescape', 'safe'])}",
            lambda: f"{s()}.{r.choice(['upper', 'lower', 'title', 'capitalize', 'strip', 'lstrip', 'rstrip', 'swapcase', 'casefold'])}()",
            lambda: f"{s()}.{r.choice(['strip', 'lstrip', 'rstrip'])}({self.some('str', 0)})", lambda: f"{s()} | trim({self.some('str', 0)})",
            lambda: f"{s()} | replace({self.some('str', 0)}, {s()}{r.choice(['', ', 1', ', count=2'])})",
            lambda: f"{s()}.replace({self.some('str', 0)}, {s()}{r.choice(['', ', 1', ', 0'])})",
            lambda: f"{s()}.{r.choice(['removeprefix', 'removesuffix'])}({self.some('str', 0)})",
            lambda: f"{s()}.{r.choice(['center', 'ljust', 'rjust'])}({r.randrange(-2, 20)}{r.choice(['', ', ' + repr(r.choice(PAD))])})",
            lambda: f"{s()}.zfill({r.randrange(12)})", lambda: f"{s()} | center({r.randrange(20)})",
            lambda: f"{s()} | indent({r.choice(['', '2', 'width=3, first=true', '2, true, true', repr('> '), '1, blank=True'])})",
            lambda: f"{s()} | truncate({r.choice(['5', '9, true', '3, False, ' + repr('!'), '8, leeway=0', '11, true, ' + repr('') + ', 2'])})",
            lambda: f"{any_()} | tojson({self.tojson_args()})", lambda: f"{s()} if {self.some('bool', d)} else {s()}",
            lambda: f"{self.some('strs', d)} | join({r.choice(['', s()])})", lambda: f"{self.some('str', 0)}.join({self.some('strs', d)})",
            lambda: f"{self.some('rows', d)} | join({self.some('str', 0)}, attribute='name')", lambda: f"{any_()} | join('|')",
            lambda: f"{s()}.split({r.choice(['', repr(' '), repr('.'), 'none, 1'])}) | {r.choice(['first', 'last', 'length', 'join'])}",
            lambda: f"{s()}.{r.choice(['partition', 'rpartition'])}({r.choice([repr('.'), repr(' '), repr('a')])})[{r.randrange(3)}]",
            lambda: f"{any_()} | string", lambda: f"{any_()} | default({s()}{r.choice(['', ', true'])})",
            lambda: f"'%s-%d|%5.1f|%r' % ({any_()}, {self.some('int', d)}, {self.some('float', d)}, {any_()})",
            lambda: f"'%-6s|%+d|%05d|%x' | format({s()}, {self.some('int', d)}, {self.some('int', d)}, 255)",
            lambda: f"{s()} | wordcount", lambda: self.format(d),
            lambda: f"{self.some('dict', d)} | xmlattr{r.choice(['', '(false)'])}", lambda: f"strftime_now({r.choice([repr('%d %b %Y'), repr('%Y-%m-%d %H:%M'), repr('%A %B %z%%')])})",
            lambda: f"dict(a={any_()}, b={s()}).{r.choice(['a', 'b', 'c'])}", lambda: f"{self.some('strs', d)} | {r.choice(['min', 'max', 'first', 'last'])}")

    def format(self, d):
        r, any_ = self.rng, lambda: self.some(self.rng.choice(list(NAMES)), d)
        return self.pick(
            lambda: f"'{r.choice(['{}-{}', '{1}{0}', '{0!r} {0!s}', '{{{}}}', '{} {1}', '{', '}', '{a} {}', '{a.k}', '{a[k]}{0}', '{0.x}', '{2}', '{!r:>9}|{:.2}'])}'.format({any_()}, {any_()}, a={self.some('dict', d)})",
            lambda: f"'{{:{r.choice(['', '>8', '*^9', '.3', '<6.2', 's', '08', '-=5', 'd', '5'])}}}|'.format({self.some('str', d)})",
            lambda: f"'{{:{r.choice(['', 'd', '5', '<5', '^+7', '05', '+d', ' d', 'x', '#x', 'X', '#b', 'o', ',', '_', '_x', '>12,', '.2f', '8.3e', '%', 'g', '=+6', 'é>4', 's', '.1'])}}}|'.format({self.some(r.choice(['int', 'bool']), d)})",
            lambda: f"'{{:{r.choice(['', '.2f', '8.1f', '08.2f', '+.0f', 'e', '.3g', 'G', '%', '.1%', ',.2f', '<9', '^12', '+', 'd', 'F', ',', '_.1f'])}}}|'.format({self.some('float', d)})")

    def tojson_args(self):
        return self.rng.choice(["", "", "indent=2", "indent=4, ensure_ascii=True", "ensure_ascii=True", "separators=(',', ':')", "sort_keys=true",
                                "indent=1, separators=(', ', '=')", "indent=0", "indent='\\t', sort_keys=True"])

    def int(self, d):
        i, s, r = lambda: self.some("int", d), lambda: self.some("str", d), self.rng
        return self.pick(
            lambda: f"{i()} {r.choice('+-*')} {i()}", lambda: f"{i()} // {i()}", lambda: f"{i()} % {i()}", lambda: f"{self.some('int', 0)} ** {r.randrange(4)}",
            lambda: f"-{i()}", lambda: f"+{i()}", lambda: f"{i()} | abs", lambda: f"{self.some(r.choice(['str', 'ints', 'strs', 'dict', 'rows']), d)} | {r.choice(['length', 'count'])}",
            lambda: f"{s()}.{r.choice(['find', 'rfind', 'count'])}({self.some('str', 0)}{r.choice(['', ', 1', ', 1, -1'])})",
            lambda: f"{s()} | int({r.choice(['', '-1', '0, 16', 'default=9'])})", lambda: f"{self.some('float', d)} | int", lambda: f"{self.some('bool', d)} | int",
            lambda: f"{self.some('ints', d)} | {r.choice(['sum', 'min', 'max', 'first', 'last'])}", lambda: f"{self.some('rows', d)} | sum(attribute='age'{r.choice(['', ', start=3'])})",
            lambda: f"{self.some('float', d)} | round | int", lambda: f"{i()} | round({r.choice(['', '-1'])})", lambda: f"{i()} if {self.some('bool', d)} else {i()}",
            lambda: f"{self.some('ints', d)}.{r.choice(['count', 'index'])}({self.some('int', 0)})", lambda: f"{self.some('ints', d)}[{self.small()}]")

    def float(self, d):
        f, r = lambda: self.some("float", d), self.rng
        n = lambda: self.some(r.choice(["int", "float"]), d)
        return self.pick(
            lambda: f"{n()} / {n()}", lambda: f"{f()} {r.choice('+-*%')} {n()}", lambda: f"{f()} // {n()}", lambda: f"{f()} ** {r.randrange(4)}",
            lambda: f"{n()} | round({r.choice(['', '1', '2', '0, ' + repr('floor'), '1, ' + repr('ceil'), 'method=' + repr('floor')])})",
            lambda: f"{self.some('str', d)} | float{r.choice(['', '(1.5)'])}", lambda: f"{n()} | float", lambda: f"{f()} | abs", lambda: f"-{f()}")

    def bool(self, d):
        r, any_ = self.rng, lambda: self.some(self.rng.choice(list(NAMES)), d)
        return self.pick(
            lambda: f"{self.some('bool', d)} {r.choice(['and', 'or'])} {self.some('bool', d)}", lambda: f"not {any_()}",
            lambda: self.compare(d), lambda: self.compare(d), lambda: f"{any_()} {r.choice(['==', '!='])} {any_()}",
            lambda: f"{self.some('str', d)} {r.choice(['in', 'not in'])} {self.some(r.choice(['str', 'strs', 'dict']), d)}",
            lambda: f"{self.some('int', d)} {r.choice(['in', 'not in'])} {self.some('ints', d)}",
            lambda: f"{any_()} is {r.choice(['', 'not '])}{r.choice(['defined', 'undefined', 'none', 'string', 'mapping', 'iterable', 'sequence', 'number', 'boolean', 'integer', 'float', 'true', 'false', 'callable', 'lower', 'upper', 'escaped'])}",
            lambda: f"{self.some('int', d)} is {r.choice(['odd', 'even', 'divisibleby 3', 'divisibleby(2)', 'eq 7', 'ne(0)', 'lt 5', 'ge 2', 'gt 0', 'le 1', 'in [1, 7]', 'sameas 7'])}",
            lambda: f"{self.some('str', d)}.{r.choice(['startswith', 'endswith'])}({r.choice([self.some('str', 0), '(' + repr('H') + ', ' + repr('d') + ')'])})",
            lambda: f"{self.some('str', d)}.{r.choice(['isdigit', 'isalpha', 'isalnum', 'isspace', 'islower', 'isupper', 'isascii', 'isnumeric', 'isdecimal', 'isprintable'])}()",
            lambda: f"{self.some('str', d)} is {r.choice(['filter', 'test', 'in s', 'eq(s)'])}")

    def compare(self, d):
        kind = self.rng.choice(["int", "float", "str", "ints"])
        parts = [self.some(kind, d) for _ in range(self.rng.choice([2, 2, 3]))]
        return "".join(part + (f" {self.rng.choice(['<', '>', '<=', '>=', '==', '!='])} " if i + 1 < len(parts) else "") for i, part in enumerate(parts))

    def ints(self, d):
        r, l = self.rng, lambda: self.some("ints", d)
        return self.pick(
            lambda: f"{l()} + {l()}", lambda: f"{l()} | sort{r.choice(['', '(reverse=true)', '(true)'])}", lambda: f"{l()} | unique | list", lambda: f"{l()} | reverse | list",
            lambda: f"{l()}{self.slice()}", lambda: f"range({self.small()}{r.choice(['', ', 5', ', 9, 2', ', -4, -1'])}) | list", lambda: f"{l()} | select('{r.choice(['odd', 'even', 'gt(1)', 'none'])[:4].rstrip('(')}') | list",
            lambda: f"{l()} | select('{r.choice(['gt', 'lt', 'ne', '==', 'divisibleby', 'in'])}', {r.choice([self.small(), '[1, 2]'])}) | list", lambda: f"{l()} | reject('odd') | list",
            lambda: f"{self.some('rows', d)} | map(attribute='age') | list", lambda: f"{l()} | map('abs') | list", lambda: f"{self.some('strs', d)} | map('length') | list", lambda: f"[{self.some('int', d)}, {self.some('int', d)}]",
            lambda: f"{l()} * {r.choice([0, 1, 2])}", lambda: f"{l()} | list", lambda: f"({self.some('int', d)},) | list")

    def strs(self, d):
        r, l, s = self.rng, lambda: self.some("strs", d), lambda: self.some("str", d)
        return self.pick(
            lambda: f"{s()}.split({r.choice(['', repr('.'), repr(' ') + ', 1', 'sep=' + repr('o')])})", lambda: f"{s()}.{r.choice(['rsplit(none, 1)', 'splitlines()', 'splitlines(true)', 'rsplit(' + repr('.') + ', 1)'])}",
            lambda: f"{l()} | map('{r.choice(['upper', 'lower', 'trim', 'title', 'capitalize', 'string'])}') | list", lambda: f"{l()} | sort({r.choice(['', 'case_sensitive=true', 'reverse=true'])})",
            lambda: f"{l()} | unique{r.choice(['', '(true)'])} | list", lambda: f"{l()} | list", lambda: f"{self.some('rows', d)} | map(attribute='name') | list", lambda: f"{self.some('rows', d)} | selectattr('on') | map(attribute='name') | list",
            lambda: f"{self.some('dict', d)}.keys() | list", lambda: f"{l()} | map('replace', 'a', {s()}) | list", lambda: f"[{s()}, {s()}]", lambda: f"{l()}{self.slice()}", lambda: f"{l()} | reverse | list", lambda: f"{s()} | list",
            lambda: f"{l()} | reject('in', ['a', 'c']) | list", lambda: f"({s()}, {s()})", lambda: f"{self.some('rows', d)} | map(attribute='x.y', default={s()}) | list")

    def dict(self, d):
        r, any_ = self.rng, lambda: self.some(self.rng.choice(list(NAMES)), d)
        return self.pick(
            lambda: f"{{{self.some('str', 0)}: {any_()}, 'k': {any_()}}}", lambda: f"dict({self.some('dict', d)}, z={any_()})", lambda: f"dict(a={any_()})", lambda: f"dict({self.some('dict', d)} | items)",
            lambda: f"{self.some('rows', d)} | first", lambda: f"{{1: {any_()}, none: 2, true: 3}}", lambda: f"{self.some('dict', d)}.copy()", lambda: f"dict([('a', {any_()}), ('b', 2)])")

    def rows(self, d):
        r, l = self.rng, lambda: self.some("rows", d)
        return self.pick(
            lambda: f"{l()} | sort(attribute='{r.choice(['age', 'name', 'age,name', 'name,age'])}'{r.choice(['', ', reverse=true'])})", lambda: f"{l()} | selectattr('{r.choice(['on', 'x', 'x.y', 'age'])}'{r.choice(['', ', ' + repr('defined'), ', ' + repr('eq') + ', 25', ', ' + repr('gt') + ', 26'])}) | list",
            lambda: f"{l()} | rejectattr('{r.choice(['on', 'age', 'name'])}'{r.choice(['', ', ' + repr('in') + ', [25, ' + repr('Cy') + ']', ', ' + repr('string')])}) | list", lambda: f"{l()} | unique(attribute='age') | list",
            lambda: f"{l()} | reverse | list", lambda: f"{l()}{self.slice()}", lambda: f"{l()} | select('mapping') | list", lambda: f"[{l()} | {r.choice(['min', 'max'])}(attribute='age')]")

    def any(self, d):
        r, l = self.rng, lambda: self.some(self.rng.choice(["ints", "strs", "rows"]), d)
        return self.pick(
            lambda: f"{l()} | batch({r.choice(['2', '3, 0', '1'])}) | list", lambda: f"{l()} | slice({r.choice(['2', '3, ' + repr('-')])}) | list", lambda: f"{self.some('rows', d)} | groupby('{r.choice(['age', 'on', 'name'])}'{r.choice(['', ', default=0'])})",
            lambda: f"{self.some('dict', d)} | dictsort({r.choice(['', 'true', 'by=' + repr('value'), 'reverse=true', 'false, ' + repr('key'), 'case_sensitive=True'])})", lambda: f"{self.some('dict', d)} | items | list", lambda: f"{self.some('dict', d)}.{r.choice(['items', 'values', 'keys'])}() | list",
            lambda: f"{self.some('dict', d)}.get({self.some('str', 0)}{r.choice(['', ', ' + self.leaf('any')])})", lambda: f"{self.some('dict', d)}[{self.some('str', 0)}]", lambda: f"{self.some('dict', d)} | attr('k')", lambda: f"{l()} | first", lambda: f"{l()} | last",
            lambda: f"{self.some('any', d)} or {self.some('any', d)}", lambda: f"{self.some('any', d)} | default({self.some('any', d)}, true)", lambda: f"{self.some('any', d)}.x", lambda: f"{l()} | map('string') | map('upper') | list", lambda: f"nested | sum(start=[])",
            lambda: f"{self.some('any', d)} if {self.some('bool', d)}", lambda: f"{l()} | list | count", lambda: f"namespace(a={self.some('any', d)}).a")

    # --- statements -------------------------------------------------------------------------------
    def tag(self, text):
        a, b = self.rng.choice(["", "", "-", "+"]), self.rng.choice(["", "", "-", "+"])
        return "{%" + a + " " + text + " " + b + "%}"

    def shown(self, depth=2):
        a, b = self.rng.choice(["", "", "-", "+"]), self.rng.choice(["", "", "-"])
        return "{{" + a + " " + self.some(self.rng.choice(list(NAMES)), depth) + " " + b + "}}"

    def text(self):
        return self.rng.choice(["", " ", "\n", "  \n", "x", " y\n", "\n\n  ", "<|im_end|>\n", "}}", "{", "\t# ", "\r\n", "é", "{# c #}", "{#- c\n -#}", "\n    {# c #}\n", "{% raw %}{{ x }} {% endraw %}",
                                "{%- raw -%} {% if %} {%- endraw %}\n"])

    def body(self, depth):
        return "".join(self.text() + (self.statement(depth - 1) if depth > 0 and self.rng.random() < 0.5 else self.shown(1)) + self.text() for _ in range(self.rng.randrange(1, 3)))

    def loop_things(self):
        return self.rng.choice(["{{ loop.index }}", "{{ loop.index0 }}/{{ loop.length }}", "{{ loop.revindex }}{{ loop.revindex0 }}", "{{ ', ' if not loop.last }}", "{{ loop.first }}", "{{ loop.cycle('a', 'b', 'c') }}",
                                "{{ loop.previtem is defined }}{{ loop.nextitem | default('end') }}", "{% if loop.changed(x) %}!{% endif %}", "{{ loop.depth }}{{ loop.depth0 }}", "{% if loop.index == 2 %}{% continue %}{% endif %}",
                                "{% if loop.index0 > 2 %}{% break %}{% endif %}", "{{ loop.previtem }}", "{% set ns.n = ns.n + 1 %}", "{{ x }}", "{% set y = x %}{{ y }}"])

    def statement(self, depth):
        r, t = self.rng, self.tag
        kind = r.choice(["if", "for", "for", "for", "set", "set", "setblock", "filter", "with", "macro", "macro", "call", "generation", "recursive", "unpack", "print"])
        if kind == "if":
            middle = t("elif " + self.some("bool", 1)) + self.body(depth) if r.random() < 0.4 else ""
            other = t("else") + self.body(depth) if r.random() < 0.5 else ""
            return t("if " + self.some(r.choice(["bool", "any", "str"]), 2)) + self.body(depth) + middle + other + t("endif")
        if kind == "for":
            over = self.some(r.choice(["ints", "strs", "rows", "dict", "str", "any"]), 1)
            condition = r.choice(["", "", " if x", " if x is string", " if not loop.first" if r.random() < 0.1 else " if x != 3"])
            other = t("else") + self.body(depth) if r.random() < 0.3 else ""
            return "{% set ns = namespace(n=0) %}" + t(f"for x in {over}{condition}") + self.loop_things() + self.body(depth) + self.loop_things() + other + t("endfor") + "{{ ns.n }}"
        if kind == "set":
            # a name that jinja2 first sees assigned is undefined before that even where an inner scope reads it: not so here
            return t(r.choice([f"set v = {self.some(r.choice(list(NAMES)), 2)}", f"set v, v2 = {self.some(r.choice(['strs', 'ints']), 1)}[:2]", f"set s = s ~ {self.some('any', 1)}", "set i = i + 1"])) + "{{ v }}"
        if kind == "setblock":
            return t(f"set v{r.choice(['', ' | upper', ' | trim | length'])}") + self.body(depth) + t("endset") + "[{{ v }}]"
        if kind == "filter":
            return t(f"filter {r.choice(['upper', 'trim', 'indent(2)', 'replace(' + repr('e') + ', ' + repr('3') + ')', 'title', 'length'])}") + self.body(depth) + t("endfilter")
        if kind == "with":
            return t(f"with a = {self.some('any', 1)}, b = {self.some('str', 1)}") + "{{ a }}{{ b }}" + self.body(depth) + t("endwith") + "{{ a }}"
        if kind == "macro":
            extra = r.choice(["", "{{ varargs }}", "{{ kwargs }}", "{{ caller() if caller }}", "{{ varargs | length }}{{ kwargs | dictsort }}"])
            call = r.choice([self.some("any", 1), f"{self.some('str', 1)}, b={self.some('int', 1)}", "1, 2, 3", "c=1", "*[1, 2]", "**{'a': 1, 'b': 2}", ""])
            return t(f"macro m(a{r.choice(['', '=1'])}, b={self.some('str', 1)})") + "{{ a }}:{{ b }}" + extra + self.body(depth) + t("endmacro") + "<{{ m(" + call + ") }}>"
        if kind == "call":
            args, given = r.choice([("", ""), ("(x)", "3"), ("(x, y=2)", "'a'"), ("(x)", "")])
            return "{% macro c(k) %}[{{ caller(" + given + ") }}{{ k }}]{% endmacro %}" + t(f"call{args} c({self.some('str', 1)})") + self.body(depth) + ("{{ x }}" if args else "") + t("endcall")
        if kind == "generation":
            return t("generation") + self.body(depth) + t("endgeneration")
        if kind == "recursive":
            return t("for x in [[1, [2, 3]], [], [[4]]] recursive") + "{{ loop.depth }}{% if x is sequence %}({{ loop(x) }}){% else %}{{ x }}{% endif %}" + self.text() + t("endfor")
        if kind == "unpack":
            return t(f"for k, v in {self.some('dict', 1)}{r.choice(['.items()', ' | items', ' | dictsort'])}") + "{{ k }}={{ v }};" + t("endfor")
        return t(f"print {self.some('any', 1)}")

    def template(self):
        if self.rng.random() < 0.65:
            return "{{ " + self.some(self.rng.choice(list(NAMES)), self.rng.choice([1, 2, 2, 3])) + " }}"
        return self.body(2)
