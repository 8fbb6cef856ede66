"""A stand-in for Azure SQL, which lets in those whose tokens verify: as much of TDS as signing in needs.

Source: [MS-TDS], version 8.0, where TLS comes before all else; sections 2.2.6 and 2.2.7 have the messages.
"""

import socketserver
import ssl
import struct
import threading

from tokens import verify

AUDIENCE = "https://database.windows.net/"
# Types of packets.
PRELOGIN, LOGIN, TOKEN, BATCH, REPLY = 0x12, 0x10, 0x08, 0x01, 0x04
LAST = 0x01
HEAD = struct.Struct(">BBHHBB")
# SQL_Latin1_General_CP1_CI_AS.
COLLATION = bytes.fromhex("0904d00034")


def short(text):
    """A string with its length in characters before it, in one byte."""
    return bytes([len(text)]) + text.encode("utf-16-le")


def packet(data):
    return HEAD.pack(REPLY, LAST, HEAD.size + len(data), 0, 1, 0) + data


def prelogin():
    """Version 16, encryption as it is, and a token is wanted."""
    options = {0: bytes([16, 0, 0, 0, 0, 0]), 1: b"\x02", 6: b"\x01"}
    at, table = 5 * len(options) + 1, b""
    for option, data in options.items():
        table += struct.pack(">BHH", option, at, len(data))
        at += len(data)
    return table + b"\xff" + b"".join(options.values())


def whom_to_ask(issuer):
    """FEDAUTHINFO: who issues tokens, and for what they must be."""
    texts = {1: issuer.encode("utf-16-le"), 2: AUDIENCE.encode("utf-16-le")}
    at, options = 4 + 9 * len(texts), b""
    for number, text in texts.items():
        options += struct.pack("<BII", number, len(text), at)
        at += len(text)
    data = struct.pack("<I", len(texts)) + options + b"".join(texts.values())
    return b"\xee" + struct.pack("<I", len(data)) + data


def done(status=0, rows=0):
    return struct.pack("<BHHQ", 0xFD, status, 0, rows)


def signed_in():
    """ENVCHANGE of the collation, LOGINACK, FEATUREEXTACK of the token, DONE."""
    collation = bytes([7, len(COLLATION)]) + COLLATION + b"\0"
    ack = b"\x01" + struct.pack(">I", 0x08000000) + short("stand-in") + bytes([16, 0, 0, 0])
    return (b"\xe3" + struct.pack("<H", len(collation)) + collation + b"\xad" + struct.pack("<H", len(ack)) + ack
            + b"\xae\x02" + struct.pack("<I", 0) + b"\xff" + done())


def refused(why):
    """ERROR 18456, as SQL Server refuses a login."""
    data = struct.pack("<IBBH", 18456, 1, 14, len(why)) + why.encode("utf-16-le") + short("stand-in") + short("")
    data += struct.pack("<I", 1)
    return b"\xaa" + struct.pack("<H", len(data)) + data + done(0x02)


def one_row(text):
    """COLMETADATA of one nvarchar, ROW, DONE."""
    data = text.encode("utf-16-le")
    column = struct.pack("<HIHBH", 1, 0, 0x09, 0xE7, 8000) + COLLATION + short("name")
    return b"\x81" + column + b"\xd1" + struct.pack("<H", len(data)) + data + done(0x10, 1)


class Session(socketserver.StreamRequestHandler):
    timeout = 60

    def setup(self):
        self.request = self.server.tls.wrap_socket(self.request, server_side=True)
        super().setup()

    def read(self):
        """Type and content of a message, or None at the end."""
        content = b""
        while head := self.rfile.read(HEAD.size):
            kind, status, length, *_ = HEAD.unpack(head)
            content += self.rfile.read(length - HEAD.size)
            if status & LAST:
                return kind, content
        return None

    def handle(self):
        name = None
        while message := self.read():
            kind, content = message
            if kind == PRELOGIN:
                answer = prelogin()
            elif kind == LOGIN:
                answer = whom_to_ask(self.server.issuer)
            elif kind == TOKEN:
                # Behind its own length, and that of both.
                name, answer = self.server.admit(content[8:].decode("utf-16-le"))
            elif kind == BATCH and name:
                answer = one_row(name)
            else:
                return
            self.wfile.write(packet(answer))


class Database(socketserver.ThreadingTCPServer):
    """Lets in the identities that it knows; what it has taken are the claims of their tokens."""

    daemon_threads = True

    def __init__(self, t, authority, name, known, tenant):
        super().__init__((t.cluster.host, 0), Session)
        self.keys, self.tenant, self.known, self.taken = t.cluster.entra.keys(), tenant, set(known), []
        self.issuer = t.cluster.entra.url
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.certificate, key = authority.issue(name)
        self.tls.load_cert_chain(self.certificate, key)
        self.tls.set_alpn_protocols(["tds/8.0"])
        self.port = self.server_address[1]
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def admit(self, token):
        """As whom somebody is let in, and what he is told."""
        try:
            claims = verify(token, self.keys, self.tenant, AUDIENCE)
        except (AssertionError, ValueError, KeyError) as error:
            return None, refused(f"Login failed: {error}")
        if claims["appid"] not in self.known:
            return None, refused(f"Login failed for user '{claims['appid']}'")
        self.taken.append(claims)
        return claims["appid"], signed_in()

    def close(self):
        self.shutdown()
        self.server_close()
