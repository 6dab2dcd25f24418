"""Where settings come from, which source counts, and how errors name it."""

from pathlib import Path

import attrs
import pytest

from moorage.supervisor.config.settings import Settings
from moorage.supervisor.config.sources import KINDS, InvalidConfigurationError, flag, load, variable
from moorage.supervisor.config.topic_rules import TopicRule

NAMES = tuple(attrs.fields_dict(Settings))

# For each kind of setting: a text, and what it means.
EXAMPLES = {
    "host": ("localhost", "localhost"),
    "port": ("9000", 9000),
    "path": ("/socket", "/socket"),
    "unix_socket": ("/run/x.sock", Path("/run/x.sock")),
    "pong_timeout": ("2.5", 2.5),
    "anonymous": ("yes", True),
    "query_token": ("off", False),
    "jwt_key": ("se,cr[et]", ("se,cr[et]",)),
    "jwt_audience": ("a, b", ("a", "b")),
    "jwt_issuer": ("https://login", "https://login"),
    "topics": ('{"a.*": {"overload": "latest"}}', {"a.*": TopicRule(overload="latest")}),
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "moorage.toml"

    def write(text: str) -> Path:
        path.write_text(text, "utf-8")
        return path

    return write


def errors(flags=None, environment=None, file=None):
    with pytest.raises(InvalidConfigurationError) as caught:
        load(flags or {}, environment or {}, file)
    return caught.value.errors


def test_nothing_given_means_the_defaults():
    found = load({}, {"PATH": "/bin", "MOORAGEX": "1"})
    assert found.settings == Settings()
    assert {found.source(name) for name in NAMES} == {"default"}


def test_the_variables_of_a_kubernetes_service_of_our_name_are_ignored_and_told():
    """Once a Service named `moorage` kept the server from starting: its `MOORAGE_PORT` is a URL."""
    service = {
        "MOORAGE_SERVICE_HOST": "10.0.0.11",
        "MOORAGE_SERVICE_PORT": "8765",
        "MOORAGE_PORT": "tcp://10.0.0.11:8765",
    }
    found = load({}, {**service, "MOORAGE_BACKLOG": "7"})
    assert (found.settings.port, found.settings.backlog) == (8765, 7)
    assert found.ignored == tuple(service)


def test_every_setting_has_a_flag_a_variable_and_a_kind():
    assert set(KINDS) == set(NAMES)
    assert flag("max_total_connections") == "--max-total-connections"
    assert variable("max_total_connections") == "MOORAGE_MAX_TOTAL_CONNECTIONS"


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_variable_is_read_as_its_setting_needs_it(name):
    text, value = EXAMPLES[name]
    found = load({}, {variable(name): text})
    assert getattr(found.settings, name) == value
    assert found.source(name) == variable(name)


def test_a_flag_counts_before_a_variable_before_the_file_before_the_default(file):
    path = file("port = 1\npath = '/file'\nbacklog = 7\n")
    variables = {"MOORAGE_PORT": "2", "MOORAGE_PATH": "/variable"}
    found = load({"port": "3"}, variables, path)
    settings = found.settings
    assert (settings.port, settings.path, settings.backlog) == (3, "/variable", 7)
    assert found.source("port") == "--port"
    assert found.source("path") == "MOORAGE_PATH"
    assert found.source("backlog") == f"{path}:3"
    assert found.source("host") == "default"


def test_flags_come_as_they_were_given():
    found = load(
        {
            "anonymous": True,
            "query_token": False,
            "jwt_key": ["one\n", "two, [three]"],
            "jwt_key_file": ["a.pem", "b.pem"],
            "jwt_audience": ["a,b", "c"],
            "topics": '{"b.*": {"max_subscribers": 7}, "**": {"client_publish": false}}',
            "message_rate": "0",
        },
        {},
    ).settings
    assert found.anonymous
    assert not found.query_token
    assert found.jwt_key == ("one", "two, [three]")
    assert found.jwt_key_file == (Path("a.pem"), Path("b.pem"))
    assert found.jwt_audience == ("a,b", "c")
    assert list(found.topics.items()) == [
        ("b.*", TopicRule(max_subscribers=7)),
        ("**", TopicRule(client_publish=False)),
    ]
    assert found.message_rate == 0


def test_a_list_in_a_variable_may_be_json_for_entries_with_commas():
    found = load({}, {"MOORAGE_SUBSCRIBE_PATTERNS": '["a,b", "c.*"]', "MOORAGE_JWT_AUDIENCE": ""})
    assert found.settings.subscribe_patterns == ("a,b", "c.*")
    assert found.settings.jwt_audience == ()


def test_a_file_holds_values_of_toml(file):
    found = load(
        {},
        {},
        file(
            'host = "::1"\n'
            "pong_timeout = 3\n"
            "anonymous = true\n"
            'jwt_key_file = "keys/public.pem"\n'
            'allowed_origins = ["https://a.b", "https://c.d"]\n'
            '[topics."b.*"]\n'
            'overload = "latest"\n'
            '[topics."**"]\n'
        ),
    )
    settings = found.settings
    assert settings.host == "::1"
    assert settings.pong_timeout == 3.0
    assert type(settings.pong_timeout) is float
    assert settings.anonymous
    assert settings.allowed_origins == ("https://a.b", "https://c.d")
    assert list(settings.topics.items()) == [
        ("b.*", TopicRule(overload="latest")),
        ("**", TopicRule()),
    ]
    assert found.source("topics").endswith("moorage.toml:6")


def test_relative_paths_in_a_file_start_from_its_folder(file, tmp_path):
    path = file("jwt_key_file = 'a.pem'\ntls_certificate = 'b.pem'\nunix_socket = '/run/x'\n")
    settings = load({"jwt_algorithms": []}, {}, path).settings
    assert settings.jwt_key_file == (tmp_path / "a.pem",)
    assert settings.tls_certificate == tmp_path / "b.pem"
    assert settings.unix_socket == Path("/run/x")


def test_an_error_names_setting_source_line_and_what_is_allowed(file):
    path = file("# a comment\n\nport = 70000\n")
    (error,) = errors(file=path)
    assert str(error) == (
        f"port (from {path}:3): 70000 is too big; "
        "allowed: a whole number, from 0 to 65535 (0: any free port)"
    )
    (error,) = errors(environment={"MOORAGE_LOG_LEVEL": "loud"})
    assert str(error).startswith("log_level (from MOORAGE_LOG_LEVEL): 'loud' is not one of them")
    (error,) = errors(flags={"pong_timeout": "soon"})
    assert str(error) == (
        "pong_timeout (from --pong-timeout): 'soon' is not a number; allowed: a number, above 0"
    )


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("MOORAGE_ANONYMOUS", "maybe"),
        ("MOORAGE_PORT", ""),
        ("MOORAGE_PORT", "80.5"),
        ("MOORAGE_JWT_KEY", ""),
        ("MOORAGE_TOPICS", "prices.*=latest"),
        ("MOORAGE_TOPICS", '["a"]'),
        ("MOORAGE_TOPICS", '{"a": {}, "a": {}}'),
        ("MOORAGE_TOPICS", "[" * 100_000),
        ("MOORAGE_JWT_AUDIENCE", "[1, 2]"),
        ("MOORAGE_JWT_AUDIENCE", "[oops"),
        ("MOORAGE_UNIX_SOCKET", ""),
        ("MOORAGE_TRUSTED_PROXIES", "10.0.0.0/8,,"),
    ],
)
def test_a_variable_that_cannot_be_read_is_an_error(key, text):
    (error,) = errors(environment={key: text})
    assert error.source == key
    assert error.allowed


@pytest.mark.parametrize(
    "line",
    [
        *("port = '80'", "port = true", "port = 1.5", "port = [80]", "host = 7"),
        *("anonymous = 'yes'", "pong_timeout = '3'", "pong_timeout = nan", "pong_timeout = false"),
        *("jwt_key = 7", "jwt_key = [7]", "allowed_origins = { a = 1 }", "unix_socket = 7"),
        *("topics = 'latest'", "topics = [{}]", "jwt_key_file = [['a']]"),
        *("log_level = 1979-05-27", "unix_socket = ''"),
    ],
)
def test_a_value_of_the_wrong_type_in_a_file_is_an_error(file, line):
    (error,) = errors(file=file(line))
    assert error.setting == line.split()[0]
    assert error.source.endswith("moorage.toml:1")
    assert error.allowed


def test_a_secret_of_the_wrong_type_is_not_repeated(file):
    (error,) = errors(file=file("jwt_key = [123456789]"))
    assert "123456789" not in str(error)


def test_unknown_settings_are_errors_with_a_guess(file):
    path = file("prot = 80\n[limits]\nmax = 1\n[max-message-size]\n")
    first, second, third = errors(file=path)
    assert str(first) == f"prot (from {path}:1): there is no such setting; did you mean port?"
    assert second.source == f"{path}:2"
    assert "moorage config show" in str(second)
    assert "did you mean max_message_size?" in str(third)
    (error,) = errors(environment={"MOORAGE_MAX_MESAGE_SIZE": "1"})
    assert error.setting == "MOORAGE_MAX_MESAGE_SIZE"
    assert "did you mean MOORAGE_MAX_MESSAGE_SIZE?" in str(error)


def test_variables_of_the_command_itself_are_no_settings():
    load({}, {"MOORAGE_TOKEN": "x", "MOORAGE_CONFIG": "x", "MOORAGE_APP": "x"})


def test_all_errors_of_all_sources_come_at_once(file):
    found = errors({"port": "x"}, {"MOORAGE_PATH": "y", "MOORAGE_Q": ""}, file("z = 1\nport = -1"))
    assert [error.setting for error in found] == ["z", "port", "path", "MOORAGE_Q", "port"]


def test_all_errors_of_the_topic_rules_name_rule_key_and_line(file):
    path = file(
        "port = 80\n"
        '[topics."orders.**"]\n'
        "# a comment\n"
        'overload = "explode"\n'
        "max_subscriber = 3\n"
        "[topics.orders.paid]\n"
        'overload = "latest"\n'
        '[topics."a..b"]\n'
        "[topics]\n"
        'news = "latest"\n'
    )
    found = [(error.setting, error.source) for error in errors(file=path)]
    assert found == [
        ('topics."orders.**".overload', f"{path}:4"),
        ('topics."orders.**".max_subscriber', f"{path}:5"),
        ('topics."orders".paid', f"{path}:6"),
        ('topics."a..b"', f"{path}:8"),
        ('topics."news"', f"{path}:10"),
    ]


def test_an_error_of_a_rule_in_a_flag_or_a_variable_names_it():
    text = '{"a": {"max_subscribers": 0}, "b": {"overload": "explode"}}'
    for arguments, source in (
        ({"flags": {"topics": text}}, "--topics"),
        ({"environment": {"MOORAGE_TOPICS": text}}, "MOORAGE_TOPICS"),
    ):
        first, second = errors(**arguments)
        assert str(first) == (
            f'topics."a".max_subscribers (from {source}): 0 is too small; '
            "allowed: a whole number, 1 or more"
        )
        assert second.setting == 'topics."b".overload'
        assert second.source == source


def test_the_rules_of_two_sources_are_not_mixed(file):
    path = file('[topics."a"]\noverload = "latest"\n')
    found = load({"topics": '{"b": {}}'}, {}, path)
    assert found.settings.topics == {"b": TopicRule()}
    assert load({"topics": ""}, {}, path).settings.topics == {}


def test_the_setting_that_rules_replaced_says_what_to_write(file):
    (error,) = errors(file=file('[overload]\n"prices.*" = "latest"\n'))
    assert error.source.endswith("moorage.toml:1")
    assert 'write [topics."PATTERN"] with the key overload = "POLICY" instead' in str(error)
    (error,) = errors(environment={"MOORAGE_OVERLOAD": "a=latest"})
    assert """write MOORAGE_TOPICS='{"PATTERN": {"overload": "POLICY"}}' instead""" in str(error)
    (error,) = errors(flags={"overload": ["a=latest"]})
    assert error.source == "--overload"
    assert """write --topics '{"PATTERN": {"overload": "POLICY"}}' instead""" in str(error)


def test_a_line_is_the_keys_own_and_not_one_that_looks_like_it(file):
    text = 'path = """\n/port = 1\n"""\nport = -1'
    assert errors(file=file(text))[1].source.endswith("moorage.toml:4")


def test_what_is_not_toml_is_named_with_its_line(file):
    path = file("port = 80\nhost = localhost\n")
    (error,) = errors(file=path)
    assert error.source == f"{path}:2"
    assert "not TOML" in str(error)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    (error,) = errors(file=tmp_path / "missing.toml")
    assert "missing.toml cannot be read: No such file" in str(error)
    (error,) = errors(file=tmp_path)
    assert "cannot be read: Is a directory" in str(error)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    (error,) = errors(file=binary)
    assert "not UTF-8" in str(error)


def test_settings_that_do_not_go_together_name_the_source_of_one():
    (error,) = errors(environment={"MOORAGE_HOST": "0.0.0.0"})
    assert error.source == "MOORAGE_HOST"
    assert "no key is configured" in str(error)
