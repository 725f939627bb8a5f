"""All settings, in one validated table. docs/settings.md is generated from it."""

from __future__ import annotations

from email.headerregistry import Address
from enum import StrEnum
from pathlib import Path
from typing import Final

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from issuer.ids import id_text
from issuer.mail_server import MailServer, parse_mail_server, parse_mailbox
from issuer.networks import parse_networks
from issuer.origins import parse_origins
from issuer.rate_limit import RateLimit, parse_limit
from issuer.server_urls import check_server_url

MAX_LOADS: Final = 3
"""Uploads, campaigns and jobs that add codes at the same time in one API process: each keeps a core busy."""


class Auth(StrEnum):
    ON = "on"
    OFF = "off"


class SettingsError(Exception):
    """Invalid settings: one line each, without their values, which may be secret."""


class Settings(BaseSettings):
    """Every field is read from the environment variable ISSUER_<NAME>."""

    model_config = SettingsConfigDict(
        env_prefix="ISSUER_", extra="ignore", frozen=True, hide_input_in_errors=True, env_ignore_empty=True
    )

    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        description="Redis or Valkey: redis://, rediss://, unix://, or sentinel://host:port,host:port/service/db",
    )
    database_url: SecretStr = Field(
        SecretStr("postgresql://127.0.0.1:5432/issuer"),
        description="Postgres, for the API; sslmode and similar options are part of the query",
    )
    worker_database_url: SecretStr | None = Field(
        None, description="The same for the worker, with its own role; default: ISSUER_DATABASE_URL"
    )
    owner_database_url: SecretStr | None = Field(
        None,
        description="The same for `issuer migrate` and the other commands, with the role that owns the tables; "
        "default: ISSUER_DATABASE_URL",
    )
    role_prefix: str = Field(
        "issuer",
        pattern="^[a-z_][a-z0-9_]{0,40}$",
        description="Postgres roles that `issuer migrate` creates and grants rights to: this with `_api` and `_worker`",
    )
    secret_key: SecretStr | None = Field(
        None,
        description="Key that encrypts secrets in Postgres, from `issuer secrets new-key`; after a comma older keys, "
        "which only decrypt",
    )
    host: str = Field("127.0.0.1", description="Address on which the API listens")
    port: int = Field(8000, ge=0, le=65535, description="Port on which the API listens; 0 picks a free one")
    workers: int = Field(1, ge=1, le=64, description="API processes")
    auth: Auth = Field(
        Auth.ON,
        description="Whether API keys are required; `off` is for use behind a gateway that checks callers (on, off)",
    )
    console: str = Field(
        "on", pattern="^(on|off)$", description="Whether the API serves the console, at `/console` (on, off)"
    )
    default_client: str | None = Field(
        None,
        description="Client of requests, rows and commands that name none, where the API key is bound to none: a UUID, "
        "or the text of a registered client; default: none, under `issuer up --demo` the demo client",
    )
    trusted_proxies: str = Field(
        "127.0.0.1",
        description="Proxies whose X-Forwarded-For or Forwarded header is trusted, so that limits count the callers "
        "behind them: addresses and networks, comma-separated; `none`, or `*` for all",
    )
    cors_origins: str = Field(
        "",
        description="Sites whose pages may call the routes of public API keys from a browser: origins such as "
        "`https://shop.example`, comma-separated; empty: none",
    )
    rate_limit: str = Field(
        "off",
        description="Requests of each API key without a limit of its own, and of each IP address, over all "
        "processes: `100/s`, `6000/m`, `100/s,burst=500` or off",
    )
    rate_limit_ip: str | None = Field(None, description="The same for IP addresses only; default: ISSUER_RATE_LIMIT")
    failed_lookup_limit: str = Field(
        "10/m",
        description="Failed lookups of codes of each IP address, and of each customer of a server whose key has "
        "a limit of its own; off: unlimited. With ISSUER_AUTH=off addresses are counted only if "
        "ISSUER_TRUSTED_PROXIES is set",
    )
    failed_lookup_limit_public_key: str = Field(
        "300/m",
        description="Failed lookups of each public API key without a limit of its own, from all addresses together",
    )

    partitions: int = Field(
        64, ge=1, le=1024, description="Partitions of the Redis key space; fixed at the first start"
    )
    max_backlog: int = Field(
        1_000_000,
        ge=1,
        le=1_000_000_000,
        description="Redemptions of a partition that may wait for the ledger; also bounds how many codes a lost Redis "
        "can have issued unrecorded. Read at the first start; later changed with `issuer max-backlog`",
    )
    pool_high_water: int = Field(1_000_000, ge=10, description="Codes of one pool that Redis holds at most")
    redeem_timeout_ms: int = Field(
        2_000,
        ge=100,
        le=10_000,
        description="Time after which a redemption without an answer from Redis is answered 503",
    )
    max_waiting: int = Field(
        4_096, ge=1, description="Redemptions that may wait in one API process; more are answered 503"
    )
    wait_replicas: int = Field(
        0, ge=0, le=16, description="Replicas that must confirm a redemption before it is answered"
    )
    wait_timeout_ms: int = Field(500, ge=1, le=10_000, description="How long to wait for the replicas")
    journal: str = Field(
        "on", pattern="^(on|off)$", description="Journal what is answered, to restore a lost Redis (on, off)"
    )
    journal_dir: Path | None = Field(
        None, description="Directory of the receipt journals of this host; default: `journals` in ISSUER_DATA_DIR"
    )
    host_name: str = Field("", description="Name of this host in journals and messages; default: its host name")
    journal_max_mb: int = Field(
        4_096, ge=16, description="Size of the journal of one process, from which on it continues without a journal"
    )
    heartbeat_ms: int = Field(
        500, ge=10, le=5_000, description="How often a process reports to Postgres; the same for all processes"
    )

    currency: str = Field(
        "EUR",
        pattern="^[A-Z]{3}$",
        description="Currency of a coupon's discount_fixed if none is given (ISO 4217)",
    )

    smtp_url: SecretStr | None = Field(
        None,
        description="Server that sends mail: smtp://user:password@host:587 (encrypted by STARTTLS, except to this host "
        "or with ?starttls=off) or smtps://; default: no mail is sent, and staff read login codes with "
        "`issuer loyalty login-code`",
    )
    mail_from: str | None = Field(
        None,
        validate_default=True,
        description="Sender of mail, needed with ISSUER_SMTP_URL: points@shop.example, or "
        "`The Shop <points@shop.example>`",
    )
    public_url: str | None = Field(
        None,
        pattern=r"^https?://[^\s/?#@]+$",
        description="Address by which people reach the pages, such as https://points.shop.example: messages have links "
        "that begin with it; default: none, and messages have codes without a link",
    )
    mail_reply_to: str | None = Field(None, description="Address for replies to mail; default: that of the sender")

    card_font: Path | None = Field(
        None, description="TrueType font of printed cards, for scripts that the built-in one lacks; default: Vera"
    )
    apple_pass_certificate: Path | None = Field(
        None, description="Apple Wallet: certificate of the pass type, in PEM; default: no passes"
    )
    apple_pass_key: Path | None = Field(None, description="Apple Wallet: RSA key of that certificate, in PEM")
    apple_intermediate_certificate: Path | None = Field(
        None, description="Apple Wallet: the intermediate certificate of Apple that signed it (WWDR), in PEM"
    )
    google_wallet_key: Path | None = Field(
        None, description="Google Wallet: JSON file with the key of a service account; default: no links"
    )
    google_wallet_issuer: str | None = Field(
        None, pattern="^[0-9]{1,30}$", description="Google Wallet: id of the issuer in the console"
    )
    google_wallet_logo: str | None = Field(
        None, pattern="^https://", description="Google Wallet: address of the logo of the programs"
    )

    fealty: str = Field(
        "off",
        pattern="^(on|off)$",
        description="Whether the routes of FealTY answer refusals as FealTY does, with status 200 and a JSON string; "
        "off: problems with their own status (on, off)",
    )
    fealty_program: str | None = Field(
        None, description="Loyalty program of the routes of FealTY, by name or id; default: they find none"
    )

    max_body_bytes: int = Field(65_536, ge=1_024, description="Size limit of a request body, uploads excepted")
    max_upload_bytes: int = Field(1_073_741_824, ge=1_024, description="Size limit of an uploaded CSV file")
    max_header_bytes: int = Field(
        16_384, ge=1_024, description="Size limit of a request head: request line and headers"
    )
    receive_timeout_s: float = Field(
        10.0, gt=0, description="Time limit for receiving a request's head, and again for its body"
    )
    upload_timeout_s: float = Field(
        1_800.0,
        ge=1,
        le=86_400,
        description="Time limit for receiving an upload, and again for adding the codes of an upload or a campaign; an "
        "upload that arrives too slowly for it is ended early",
    )
    max_uploads: int = Field(
        8, ge=1, description="Uploads that one API process receives at once; one client has at most half of them"
    )
    max_reports: int = Field(
        4, ge=1, description="Reports that one API process writes at once; one client has at most half of them"
    )
    max_connections: int = Field(
        20_000, ge=1, description="Open connections of one API process; more are closed at once"
    )
    max_connections_per_address: int = Field(
        2_000,
        ge=1,
        description="Open connections of one IP address to one API process; trusted proxies are not counted",
    )
    max_event_streams: int = Field(
        5_000,
        ge=1,
        description="Open streams of campaign events of one API process; those of one client's campaigns are at most "
        "half of them, and so are those of one address, with its streams of the console's figures",
    )
    shutdown_timeout_s: float = Field(10.0, gt=0, description="Time limit for requests in flight after SIGTERM")

    postgres_pool_size: int = Field(
        8,
        ge=2,
        le=200,
        description="Postgres connections of one API process; one of them only listens for notifications",
    )
    postgres_timeout_s: float = Field(10.0, gt=0, description="Time limit of a statement that serves a request")
    report_timeout_s: float = Field(
        900.0, ge=1, le=86_400, description="Time limit of a report, including the time that its reader takes"
    )
    audit_retention_days: int | None = Field(
        None,
        ge=31,
        description="Days after which entries of the audit log are removed, at its oldest end; default: never",
    )
    dead_letter_retention_days: int = Field(
        30, ge=1, description="Days after which a dead letter that was resolved is removed"
    )
    hook_retention_days: int = Field(
        90,
        ge=1,
        description="Days after which a delivery of a shop is removed, and for which orders wait for their customers "
        "to join",
    )
    metrics_dir: Path | None = Field(
        None,
        description="Directory in which the API processes of one host add up their counters for /metrics; "
        "default: each process reports its own",
    )
    log_level: str = Field(
        "info",
        pattern="^(debug|info|warning|error)$",
        description="Lowest level that is logged: debug, info, warning or error",
    )

    data_dir: Path = Field(
        Path(".issuer"), description="Data directory: receipt journals and, with `issuer up`, the embedded servers"
    )
    redis_server: Path | None = Field(
        None, description="`issuer up`: a server binary to use instead of the bundled Valkey"
    )
    appendfsync: str = Field(
        "always",
        pattern="^(always|everysec)$",
        description="`issuer up`: everysec is faster on slow disks and may lose the last seconds of redemptions",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        *_: object,
        **__: object,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Leave out the sources of files, which take a third of the time and have nothing."""
        return init_settings, env_settings

    def as_worker(self) -> Settings:
        """Return the settings of the worker, whose `database_url` is worker_database_url."""
        return self.model_copy(update={"database_url": self.worker_database_url or self.database_url})

    def as_owner(self) -> Settings:
        """Return the settings of a command, whose `database_url` is owner_database_url."""
        return self.model_copy(update={"database_url": self.owner_database_url or self.database_url})

    @property
    def journals(self) -> Path | None:
        """The directory of the receipt journals of this host; None: none are written."""
        return None if self.journal == "off" else self.journal_dir or self.data_dir / "journals"

    @property
    def mail_server(self) -> MailServer | None:
        """The server that sends mail; None: no mail is sent."""
        return None if self.smtp_url is None else parse_mail_server(self.smtp_url.get_secret_value())

    @property
    def mail_sender(self) -> Address | None:
        """The sender of mail."""
        return None if self.mail_from is None else parse_mailbox(self.mail_from)

    @property
    def mail_reply_address(self) -> Address | None:
        """The address for replies to mail."""
        return None if self.mail_reply_to is None else parse_mailbox(self.mail_reply_to)

    @property
    def has_console(self) -> bool:
        """Whether the console is served."""
        return self.console == "on"

    @property
    def is_fealty(self) -> bool:
        """Whether refusals of the routes of FealTY have its form."""
        return self.fealty == "on"

    @property
    def key_limit(self) -> RateLimit | None:
        """The rate limit of each API key without a limit of its own."""
        return parse_limit(self.rate_limit)

    @property
    def address_limit(self) -> RateLimit | None:
        """The rate limit of each IP address."""
        return parse_limit(self.rate_limit if self.rate_limit_ip is None else self.rate_limit_ip)

    @property
    def lookup_limit(self) -> RateLimit | None:
        """The limit of failed lookups."""
        return parse_limit(self.failed_lookup_limit)

    @property
    def public_lookup_limit(self) -> RateLimit | None:
        """The limit of failed lookups of a public key."""
        return parse_limit(self.failed_lookup_limit_public_key)

    @property
    def counts_addresses(self) -> bool:
        """Whether an address stands for a caller also where requests have no key.

        Behind a gateway, which is what `auth = off` is for, it stands for all callers, unless the operator has named
        the proxies that report the addresses.
        """
        return self.auth is Auth.ON or "trusted_proxies" in self.model_fields_set

    @property
    def postgres_connections(self) -> int:
        """The largest number of Postgres connections of one API process: the pool, and one for each long work."""
        return self.postgres_pool_size + MAX_LOADS + self.max_reports

    @property
    def pool_low_water(self) -> int:
        """The number of codes in Redis below which a pool is topped up: half of the high-water mark."""
        return self.pool_high_water // 2

    @field_validator("rate_limit", "rate_limit_ip", "failed_lookup_limit", "failed_lookup_limit_public_key")
    @classmethod
    def _limit_form(cls, value: str | None) -> str | None:
        if value is not None:
            parse_limit(value)
        return value

    @field_validator("default_client")
    @classmethod
    def _id_form(cls, value: str | None) -> str | None:
        return None if value is None else id_text(value)

    @field_validator("trusted_proxies")
    @classmethod
    def _proxy_networks(cls, value: str) -> str:
        parse_networks(value)
        return value

    @field_validator("cors_origins")
    @classmethod
    def _web_origins(cls, value: str) -> str:
        parse_origins(value)
        return value

    @field_validator("smtp_url")
    @classmethod
    def _smtp_form(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            parse_mail_server(value.get_secret_value())
        return value

    @field_validator("mail_from", "mail_reply_to")
    @classmethod
    def _mailbox_form(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None:
            parse_mailbox(value)
        elif info.field_name == "mail_from" and info.data.get("smtp_url") is not None:
            raise ValueError("is needed with ISSUER_SMTP_URL")
        return value

    @field_validator("redis_url")
    @classmethod
    def _redis_scheme(cls, value: SecretStr) -> SecretStr:
        check_server_url(value.get_secret_value(), ("redis", "rediss", "unix", "sentinel"))
        return value

    @field_validator("database_url", "worker_database_url", "owner_database_url")
    @classmethod
    def _database_scheme(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            check_server_url(value.get_secret_value(), ("postgresql", "postgres"))
        return value


def load_settings(**overrides: object) -> Settings:
    """Return the settings of this process: `overrides` (None: not given), then the environment, then the defaults.

    Raises SettingsError, which lists all problems at once.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        raise SettingsError(
            "\n".join(
                f"ISSUER_{str(problem['loc'][0]).upper()}: {problem['msg'].removeprefix('Value error, ')}"
                for problem in error.errors(include_input=False, include_url=False)
            )
        ) from None
