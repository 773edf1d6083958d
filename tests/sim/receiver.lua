--- Receivers of WAL: a standby's, and a helper's, which somebody has started under a name that it
--- has read in a mirror's files. Two histories with one number stream into each other without a
--- word.
local M = {}

local function chance(server, limit)
    return server.world.dice:number(limit)
end

-- Whether history, as PostgreSQL compares it, lets this one receive from that one: by numbers.
local function may_follow(self, source)
    if not self.world.rules.history then
        return true
    end
    if self.timeline == source.timeline then
        return #self.wal <= #source.wal
    end
    for _, switch in ipairs(source.history) do
        if switch.timeline == self.timeline then
            return #self.wal <= switch.at
        end
    end
    return false
end

-- What a receiver has flushed is known to the walsender some time later.
local function report(link, flushed)
    if link.flushed == flushed or link.told == flushed then
        return
    end
    link.told = flushed
    link.life:after(1 + chance(link.source, 3), function()
        if link.source.senders[link] then
            link.flushed = flushed
            link.source:settle()
        end
    end)
end

local function connected(self, link)
    local source = link.source
    return self.up and self.link == link and source.up and source.life == link.life
        and self.in_recovery and not source.in_recovery and not self.world.cut
end

local function pump(self, link)
    local source = link.source
    if not connected(self, link) then
        source.senders[link] = nil
        if self.link == link then
            self.link = nil
            M.stream(self)
        end
        return
    end
    if not source.life.stopped and not source.recovering then
        for i = #self.wal + 1, #source.wal do
            self.wal[i] = source.wal[i]
        end
        self.timeline = math.max(self.timeline, source.timeline)
        self.history = source.history
        report(link, #self.wal)
    end
    self.life:after(2 + chance(self, self.world.slow and 400 or 20), function()
        pump(self, link)
    end)
end

--- A standby tries to receive from the other one, again and again.
---@param self table server
function M.stream(self)
    local source = self.world.servers[5 - self.dbid]
    if not self.up or not self.in_recovery or self.recovering or self.link then
        return
    end
    if source:accepts() and source.listen and not source.in_recovery and not self.world.cut
        and may_follow(self, source) and source.slots[self.dbid] then
        self.link = { source = source, life = source.life, name = self.stream_name,
                      since = self.world.clock.now }
        source.senders[self.link] = true
        pump(self, self.link)
    else
        self.life:after(100 + chance(self, 100), function()
            M.stream(self)
        end)
    end
end

--- Somebody's receiver: it takes everything at once and keeps nothing.
---@param source table server
---@param name string
---@param ms number how long it is there
function M.helper(source, name, ms)
    if not source:accepts() or source.in_recovery then
        return
    end
    local link = { source = source, life = source.life, name = name, helper = true }
    local until_ms = source.world.clock.now + ms
    source.senders[link] = true
    local function turn()
        if source.life ~= link.life or source.world.clock.now > until_ms then
            source.senders[link] = nil
            return
        end
        report(link, #source.wal)
        link.life:after(1 + chance(source, 4), turn)
    end
    turn()
end

return M
