# Certificate authorities as operators have them: by `openssl ca`, with revocation lists.
import os
import subprocess
import time

from harness import need

CONFIG = """
[ca]
default_ca = this
[this]
database = index
rand_serial = yes
crlnumber = crlnumber
new_certs_dir = .
certificate = ca.pem
private_key = ca.key
default_md = sha256
policy = any
default_days = 2
default_crl_days = 2
unique_subject = no
[any]
commonName = optional
[req]
distinguished_name = none
[none]
"""
EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
NEVER_ENDS = 2 * 24 * 3600  # as far as a test is concerned


def moment(seconds):
    """So many seconds from now, as openssl has it."""
    return time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + seconds))


class Authority:
    """A CA in a folder of its own; by: the one above it."""

    def __init__(self, folder, name, by=None):
        need("openssl")
        self.folder = os.path.join(str(folder), name)
        os.mkdir(self.folder)
        self.name, self.above = name, by
        for file, text in (("index", ""), ("crlnumber", "01\n"), ("openssl.cnf", CONFIG)):
            with open(self.path(file), "w") as f:
                f.write(text)
        extensions = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign"]
        if by:
            by.sign(self.request("ca", name), self.path("ca.pem"), extensions)
        else:
            self.run("req", "-x509", *EC, "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-days",
                     "2", "-subj", f"/CN={name}", "-addext", extensions[0], "-addext",
                     extensions[1])
        self.pem, self.crl = self.path("ca.pem"), self.path("crl.pem")

    def path(self, name):
        return os.path.join(self.folder, name)

    def run(self, *args):
        done = subprocess.run(["openssl", *args], capture_output=True, cwd=self.folder, text=True)
        assert done.returncode == 0, (args, done.stderr)
        return done.stdout

    def request(self, name, common, key=EC):
        self.run("req", *key, "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj",
                 f"/CN={common}")
        return self.path(f"{name}.csr")

    def sign(self, request, to, extensions, starts=-3600, ends=NEVER_ENDS):
        with open(request + ".ext", "w") as f:
            f.write("\n".join(extensions) + "\n")
        self.run("ca", "-batch", "-config", "openssl.cnf", "-notext", "-in", request, "-out", to,
                 "-extfile", request + ".ext", "-startdate", moment(starts), "-enddate",
                 moment(ends))

    def issue(self, name, san=None, usage="clientAuth", common="any", key=EC, chain=(), **when):
        """Its certificate and key; chain: authorities whose certificates go with it."""
        extensions = ["basicConstraints=CA:FALSE"]
        if usage:
            extensions.append(f"extendedKeyUsage={usage}")
        if san:
            extensions.append(f"subjectAltName={san}")
        pem = self.path(f"{name}.pem")
        self.sign(self.request(name, common, key), pem, extensions, **when)
        with open(pem, "a") as f:
            for ca in chain:
                with open(ca.pem) as above:
                    f.write(above.read())
        return pem, self.path(f"{name}.key")

    def revoke(self, *pairs):
        for pem, _ in pairs:
            self.run("ca", "-batch", "-config", "openssl.cnf", "-revoke", pem)
        return self.write_crl()

    def write_crl(self, *others, to=None, last=-3600, following=NEVER_ENDS):
        """The list of now, with those of others behind it; renamed into place."""
        text = self.run("ca", "-config", "openssl.cnf", "-gencrl", "-crl_lastupdate",
                        moment(last), "-crl_nextupdate", moment(following))
        for other in others:
            with open(other.crl) as f:
                text += f.read()
        with open(self.path("crl.new"), "w") as f:
            f.write(text)
        os.rename(self.path("crl.new"), to or self.crl)
        return to or self.crl
