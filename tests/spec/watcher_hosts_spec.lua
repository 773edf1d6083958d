--- What the watcher knows of the hosts' records of the coordinator's pair.
local watcher_hosts = require("lib.watcher_hosts")

describe("watcher_hosts: a majority of the hosts", function()
    local hosts

    before_each(function()
        hosts = watcher_hosts.new({})
        hosts.hosts = { "a", "b", "c" }
        hosts.known = { a = { record = { found = true } }, b = {}, c = {} }
    end)

    it("is those that have a record", function()
        assert.is_false(hosts:majority())
        hosts.known.b.record = { found = true }
        assert.is_true(hosts:majority())
        hosts.known.a.err = { code = "connect" }
        assert.is_false(hosts:majority())
    end)

    it("is not made of one that answers and has lost its record", function()
        hosts.known.b.record = { found = false }
        assert.is_false(hosts:majority())
    end)
end)
