--- TLS on real servers: what is refused, that nothing goes in the clear, that it stays so.

local certificates = require("tests.lib.certificates")
local cluster_of = require("tests.lib.cluster")
local copy = require("tests.lib.copy")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local SOON_S = wait.SOON_S

describe("TLS", function()
    local place, cluster, watch, authority, server

    local function shell(script, ...)
        return place:must({ "sh", "-c", script, "sh", ... })
    end

    -- All sessions over the network, of all instances; those of others and their own.
    local function in_the_clear()
        local found = {}
        for _, row in ipairs(cluster:rows()) do
            local inst = cluster:instance({ dbid = row.dbid })
            for _, session in ipairs(inst:sql([[select a.application_name, a.usename, s.ssl,
                    s.version from pg_stat_activity a join pg_stat_ssl s using (pid)
                    where a.client_addr is not null]])) do
                found.total = (found.total or 0) + 1
                if session.ssl ~= "t" then
                    table.insert(found, session.application_name)
                end
            end
        end
        return found
    end

    local function encrypted()
        local found
        -- The probes of four instances and what the mirrors receive, once all are connected anew.
        wait.eventually("six sessions over the network", SOON_S, function()
            found = in_the_clear()
            return found[1] or found.total >= 6, found.total
        end)
        assert.is_nil(found[1])
    end

    -- What init says of a cluster of another name in the same directories.
    local function said_of(tls)
        local other = cluster_of.new(place, { tls = tls })
        local text = place_of.read(other.file):gsub('"test(%w+)"', '"other%1"')
        local result = cluster:moonrise({ "init", "-a", place:write("other.lua", text) })
        assert.equal(1, result.code)
        return result.err
    end

    local function with(changes)
        return copy({ cert = server.cert, key = server.key, ca = authority.cert }, changes)
    end

    setup(function()
        place = place_of.new()
        authority = certificates.authority(place, "authority")
        server = authority:sign("server")
        cluster = cluster_of.new(place, { standby = true, tls = with({}),
            fdw = { databases = { "sales" } } })
        cluster:init()
        watch = cluster:watched()
    end)

    teardown(place_of.close_all)

    it("is refused before anything is made where it could not work", function()
        local stranger = certificates.authority(place, "stranger")
        local other = authority:sign("other", "DNS:db.example,IP:10.0.0.1")
        local old = authority:sign("old", nil, 0)
        local open, locked = place:path("open.key"), place:path("locked.key")
        shell([[cp "$1" "$2"; chmod 644 "$2"; openssl rsa -in "$1" -aes256 -passout pass:x \
            -out "$3"; chmod 600 "$3"]], server.key, open, locked)
        local broken = place:write("no.crt", "nothing")
        for _, case in ipairs({
            { { key = "/nowhere/server.key" }, "/nowhere/server.key: No such file" },
            { { key = open }, "%S*open.key can be read or changed by others %(mode 0644%)" },
            { { key = locked }, "%S*locked.key is protected by a passphrase" },
            { { key = other.key }, "%S*other.key is not the key of the certificate" },
            { { cert = broken }, "%S*no.crt is no certificate" },
            { old, "the certificate %S*old.crt has expired" },
            { { ca = stranger.cert }, "the certificate %S*server.crt cannot be verified with" },
            { other, "the certificate %S*other.crt is not made out to 127.0.0.1" },
        }) do
            assert.matches("tls on host localhost: " .. case[2], said_of(with(case[1])))
        end
        assert.is_nil(said_of(with({ cert = other.cert, key = other.key, verify = "ca" }))
            :find("tls on host", 1, true))
    end)

    it("is used between all instances, and by nobody avoided", function()
        encrypted()
        local options = cluster:coordinator():value("(select srvoptions::text from " ..
            "pg_foreign_server)", { dbname = "sales" })
        assert.matches("sslmode=verify-full", options, 1, true)
        local primary = cluster:primary(0)
        local passfile = cluster:state_file("passfile")
        local form = "host=127.0.0.1 port=%s user=moonrise dbname=postgres passfile=%s sslmode=%s"
        for mode, pattern in pairs({ disable = "no encryption", require = "^moonrise" }) do
            local result = place:run({ primary.bin .. "/psql", "-XAt", "-d",
                form:format(primary.port, passfile, mode), "-c", "select current_user" })
            assert.matches(pattern, result.out .. result.err)
        end
    end)

    it("stays over a failover, a recovery and the way back", function()
        local old, new = cluster:primary(0), cluster:mirror(0)
        old:kill()
        cluster:wait_row({ dbid = new.dbid, role = "p" }, SOON_S)
        cluster:recover()
        assert.matches("sslmode=verify-full sslrootcert='" .. authority.cert ..
            "' channel_binding=require", cluster:instance({ dbid = old.dbid })
            :value("current_setting('primary_conninfo')"), 1, true)
        encrypted()
        cluster:must({ "recoverseg", "-ra" })
        cluster:wait_healthy(nil, true)
        encrypted()
    end)

    -- The certificate that a server shows.
    local function shown(inst)
        return shell([[openssl s_client -starttls postgres -connect 127.0.0.1:$1 </dev/null |
            openssl x509 -noout -fingerprint]], inst.port)
    end

    local function replace(made)
        shell([[cp "$1" "$2"; cp "$3" "$4"]], made.cert, server.cert, made.key, server.key)
        cluster:must({ "stop", "-au" })
    end

    it("takes a new certificate at a reload, and no stranger's", function()
        local before = shown(cluster:primary(0))
        local kept = { cert = place:path("kept.crt"), key = place:path("kept.key") }
        replace(authority:sign("renewed"))
        shell([[cp -p "$1" "$2"; cp -p "$3" "$4"]], server.cert, kept.cert, server.key, kept.key)
        wait.eventually("the new certificate", SOON_S, function()
            return shown(cluster:primary(0)) ~= before
        end)
        cluster:must({ "state", "-e" })

        replace(certificates.authority(place, "impostor"):sign("wrong"))
        wait.eventually("the stranger's certificate to be refused", SOON_S, function()
            local said = cluster:moonrise({ "state", "-e" })
            return said.out:find("certificate verify failed", 1, true), said.out .. said.err
        end)
        replace(kept)
        wait.eventually("a healthy cluster", SOON_S, function()
            local said = cluster:moonrise({ "state", "-e" })
            return said.code == 0, said.out .. said.err
        end)
        assert.equal("p", cluster:rows()[2].role, watch:output())
    end)
end)
