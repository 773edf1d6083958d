--- moonrise's block in pg_hba.conf, as places change.

local hba = require("lib.hba")

local function inst(dbid, content, role, address)
    return { dbid = dbid, content = content, role = role, address = address, hostname = address }
end

local COORDINATOR, PRIMARY, MIRROR = inst(1, -1, "p", "cdw"), inst(3, 0, "p", "10.0.0.1"),
    inst(4, 0, "m", "10.0.0.2")
local OTHERS = { inst(5, 1, "p", "10.0.0.2"), inst(6, 1, "m", "10.0.0.3") }
local ALL = { COORDINATOR, PRIMARY, MIRROR, OTHERS[1], OTHERS[2] }

local BLOCK = {
    'local all "postgres" peer', "local postgres,replication moonrise scram-sha-256",
    "host postgres,replication moonrise 10.0.0.1/32 scram-sha-256",
    "host postgres,replication moonrise 10.0.0.2/32 scram-sha-256",
    "host postgres,replication moonrise cdw scram-sha-256",
    "host all app 10.0.0.0/8 scram-sha-256",
}

describe("pg_hba.conf's block", function()
    it("is found, and nothing else is", function()
        local text = "# mine\n# moonrise begins; changes made here are lost\n" ..
            table.concat(BLOCK, "\n") .. "\n# moonrise ends\nhost all all all reject\n"
        assert.are.same(BLOCK, hba.block(text))
        assert.are.same(BLOCK, hba.block((text:gsub("\n", "\r\n"))))
        assert.are.same({}, hba.block("host all all all reject\n"))
        assert.are.same({}, hba.block("# moonrise begins; changes made here are lost\nhost a"))
        assert.are.same({}, hba.block(""))
    end)

    it("stays as it is where the places are the same", function()
        assert.are.same(BLOCK, hba.renewed(BLOCK, hba.wanted({}, ALL, PRIMARY)))
    end)

    it("lets a new place in beside the old one, and then the old one out", function()
        local moved = inst(4, 0, "m", "fe80::9")
        local both = hba.renewed(BLOCK, hba.wanted({}, { moved, unpack(ALL) }, PRIMARY))
        local line = "host postgres,replication moonrise fe80::9/128 scram-sha-256"
        assert.are.equal(#BLOCK + 1, #both)
        assert.matches(line, table.concat(both, "\n"), 1, true)
        assert.are.equal(BLOCK[6], both[#both])
        local after = hba.renewed(both, hba.wanted({},
            { COORDINATOR, PRIMARY, moved, OTHERS[1], OTHERS[2] }, PRIMARY))
        assert.are.equal(#BLOCK, #after)
        assert.is_nil(table.concat(after, "\n"):find("10.0.0.2", 1, true))
        assert.are.equal(BLOCK[1], after[1])
    end)

    it("lets nobody in unencrypted where the cluster has TLS", function()
        for _, line in ipairs(hba.wanted({ sslmode = "verify-full" }, ALL, PRIMARY)) do
            assert.is_nil(line:match("^host "))
        end
    end)

    it("of the coordinator lists all, that of a segment whom it has to do with", function()
        local function count(list)
            return #hba.wanted({}, ALL, list)
        end
        assert.are.equal(5, count(COORDINATOR))
        assert.are.equal(4, count(PRIMARY))
    end)
end)
