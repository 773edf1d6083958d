-- What SAFETY.md's rule 8 wants of the catalog: the record on a majority of the hosts before the
-- coordinator is released, and pairs that confirm their epochs after its standby was activated.
--
-- Transitions commit without the standby, so the catalog of an activated one may lack the last of
-- them. What was done by those is known to the hosts: each order has left its epoch beside the
-- instance. Until both hosts have told theirs the pair is *unconfirmed*, and left as it is. An
-- order that is still on its way would make that word wrong: so before it counts the instance is
-- barred (agent.h) from orders of all epochs that the lost catalog may have given out.

create function moonrise.check_confirmed(content integer) returns void
language plpgsql as $$
begin
    if exists (select from pair_state p where p.content = check_confirmed.content
            and p.unconfirmed is not null) then
        perform forbid(format('content %s has not confirmed its epochs since the coordinator''s '
            'standby was activated', content),
            format('moonrise confirm %s asks its hosts', content));
    end if;
end $$;

-- Whether the facts name a record, on a majority of the cluster's hosts, that was made for the
-- transition which is about to take the standby out: with the epoch that was reserved for it, and
-- nothing happened since. facts.majority: {"epoch": 57, "hosts": ["cdw", "sdw1"]}
create function moonrise.check_majority(content integer, facts jsonb) returns void
language plpgsql as $$
declare
    majority jsonb := facts -> 'majority';
    needed integer := (select count(distinct hostname) / 2 + 1 from gp_segment_configuration);
    named integer;
begin
    if content <> -1 then
        return;
    elsif jsonb_typeof(majority -> 'hosts') is distinct from 'array'
        or jsonb_typeof(majority -> 'epoch') is distinct from 'number' then
        perform forbid('the coordinator is released only with a record on a majority of the hosts',
            'name that record in the facts: {"majority": {"epoch": ..., "hosts": [...]}}');
    end if;
    select count(distinct hostname) into named from gp_segment_configuration
        where majority -> 'hosts' ? hostname;
    if named < needed then
        perform forbid(format('the coordinator is released only with a record on a majority of '
            'the hosts: %s of at least %s have it', named, needed));
    elsif not exists (select from pair_state p where p.content = -1
            and to_jsonb(p.epoch) = majority -> 'epoch' and p.reserved = p.epoch) then
        perform fail('MR003', format('the hosts have recorded epoch %s, the pair''s last one is %s',
            majority ->> 'epoch', last_epoch(-1)), 'something happened to the pair in between');
    end if;
end $$;

-- This catalog is an activated standby's: transitions may be missing. `token`: the lease of content
-- -1. The caller has told it (epoch_seen) the highest epoch that the hosts' records hold.
create function moonrise.activated(token bigint, reason text) returns bigint
language plpgsql security definer set search_path = pg_catalog, moonrise, pg_temp as $$
declare
    c smallint;
begin
    if token is null then
        perform fail('MR004', 'activated needs the lease of content -1');
    end if;
    perform authorise_caller(token, -1);
    -- Epochs that were given out in the last moments nobody may have heard of yet.
    perform raise_epoch((select epoch + 10000 from cluster_state));
    update pair_state p set unconfirmed = coalesce(p.unconfirmed, p.epoch)
        where p.content >= 0
        and exists (select from gp_segment_configuration g where g.content = p.content);
    for c in select p.content from pair_state p where p.unconfirmed is not null order by 1 loop
        perform pair_epoch(c);
    end loop;
    perform note('activated', -1, null, reason, jsonb_build_object('epoch',
        (select epoch from cluster_state)));
    return (select epoch from cluster_state);
end $$;

-- What a host says of an instance, as far as it matters here: its epoch file, and whether its
-- directory is a standby's.
create type moonrise.instance_word as (
    valid           boolean,
    epoch           bigint,
    "order"         text,
    marked          boolean,
    standby         boolean,
    timeline        bigint,     -- the newest that its files know
    barred          bigint      -- orders up to that epoch have no effect on it any more
);

create function moonrise.word_text(dbid integer, w instance_word) returns text
language sql as $$
    select format('dbid %s ', dbid) || case when (w).valid is not true
        then 'has no valid epoch'
        else format('is %s on timeline %s, its last order was %s of epoch %s%s',
            case when (w).marked then 'marked as replaced' when (w).standby then 'a standby'
                else 'a primary by its files' end, coalesce((w).timeline::text, '(not known)'),
            (w)."order", (w).epoch,
            case when (w).barred is null then ', others may be on their way' else '' end) end
$$;

-- Whether the instance has been promoted by an order that this catalog does not know.
create function moonrise.was_promoted(w instance_word, known bigint) returns boolean
language sql as $$
    select (w).valid and not (w).marked and not (w).standby and (w).epoch > known
        and (w)."order" in ('promote', 'arm', 'release')
$$;

-- What the words of primary and mirror prove, given the pair's epoch and timeline as the catalog
-- knew them: 'same', the hosts know of nothing else; 'kept', the roles are still those of the
-- catalog; 'switched'; null when nothing is proven. A mark is given to the catalog's mirror only,
-- so a marked instance was one. An order is on record before it is carried out: one to promote, in
-- a directory that still is a standby's, may be on its way. Only the last one is on record, and
-- anybody can make a primary's directory a standby's: that it was promoted its timeline still says.
create function moonrise.words_prove(p instance_word, m instance_word, known bigint,
    timeline bigint)
returns text
language sql as $$
    select case
        when (p).valid is not true or (m).valid is not true then null
        when greatest((p).epoch, (m).epoch) <= known then 'same'
        when (p).marked and (m).marked then null
        when (m).marked then 'kept'
        when (m).standby and (m).epoch > known and (m)."order" = 'promote' then null
        when not (p).marked and not (p).standby and ((m).epoch <= known
            or (m).standby and (m).timeline <= words_prove.timeline) then 'kept'
        when not (m).standby and (m).epoch > known and ((p).marked or (p).standby) then 'switched'
        when was_promoted(m, known) and (m).epoch > (p).epoch then 'switched'
    end
$$;

-- An epoch to bar the instances of an unconfirmed pair with, above all that the hosts have `seen`:
-- that of the last attempt, unless something was ordered since.
create function moonrise.bar_reserve(token bigint, content integer, seen bigint) returns bigint
language plpgsql security definer set search_path = pg_catalog, moonrise, pg_temp as $$
declare
    state pair_state;
begin
    perform authorise_caller(token, content);
    select * into state from pair_state p where p.content = bar_reserve.content;
    if state.unconfirmed is null then
        perform fail('MR003', format('content %s is confirmed', content));
    elsif state.reserved = state.epoch and seen <= state.epoch then
        return state.epoch;
    end if;
    perform raise_epoch(seen);
    return reserve(content, 'the orders of before the activation are barred');
end $$;

-- Whether the words were told by instances that were barred with the epoch that the pair got last.
create function moonrise.words_hold(c integer, p instance_word, m instance_word) returns boolean
language sql as $$
    select s.reserved = s.epoch
        and ((p).valid is not true or (p).barred is not distinct from s.epoch)
        and ((m).valid is not true or (m).barred is not distinct from s.epoch)
    from pair_state s where s.content = c
$$;

-- The same for a pair, or the refusal. A primary without a mirror is all there is. Where an
-- operator accepts the loss, what one host can tell is enough, and without it the roles are the
-- catalog's.
create function moonrise.pair_verdict(c integer, known bigint, words jsonb, accepted boolean)
returns text
language plpgsql as $$
declare
    primary_dbid integer := (primary_of(c)).dbid;
    mirror_dbid integer := (select dbid from gp_segment_configuration
        where content = c and role = 'm');
    p instance_word := jsonb_populate_record(null::instance_word, words -> primary_dbid::text);
    m instance_word := jsonb_populate_record(null::instance_word, words -> mirror_dbid::text);
    proven text;
begin
    if not accepted and not words_hold(c, p, m) then
        proven := null;
    elsif mirror_dbid is null then
        proven := case when (p).valid and not (p).marked and not (p).standby then 'kept' end;
    else
        proven := words_prove(p, m, known,
            (select s.timeline from pair_state s where s.content = c));
    end if;
    if proven is not null then
        return proven;
    elsif accepted then
        return case when (p).valid is not true and was_promoted(m, known) then 'switched'
            else 'kept' end;
    end if;
    perform forbid(format('content %s: it is not proven which instance is its primary: %s%s', c,
        word_text(primary_dbid, p), coalesce('; ' || word_text(mirror_dbid, m), '')),
        format('both hosts must answer; or somebody accepts the loss in writing: '
            'moonrise confirm %s --accept-loss TEXT', c));
end $$;

-- Confirms a pair by the words of its hosts, {"DBID": instance_word, ...}; the highest epoch wins,
-- over the catalog too. `accept_loss`: an operator's words where the hosts' are not to be had.
-- What is not proven to be in sync is not.
create function moonrise.pair_confirm(token bigint, content integer, words jsonb,
    accept_loss text default null)
returns bigint
language plpgsql security definer set search_path = pg_catalog, moonrise, pg_temp as $$
declare
    known bigint;
    loss text := nullif(btrim(accept_loss), '');
    verdict text;
    taken bigint;
    told text;
begin
    perform authorise_caller(token, content);
    select p.unconfirmed into known from pair_state p where p.content = pair_confirm.content;
    if known is null then
        return last_epoch(content);
    end if;
    verdict := pair_verdict(content, known, words, loss is not null);
    perform raise_epoch((select max((w.value ->> 'epoch')::bigint) from jsonb_each(words) w));
    taken := case verdict when 'switched' then swap_roles(content) else pair_epoch(content) end;
    if verdict = 'kept' or (verdict = 'same' and loss is not null) then
        update gp_segment_configuration g set mode = 'n'
            where g.content = pair_confirm.content and g.mode <> 'n';
    end if;
    update pair_state p set unconfirmed = null where p.content = pair_confirm.content;
    told := format('content %s is confirmed: dbid %s is its primary%s', content,
        (primary_of(content)).dbid,
        case verdict when 'switched' then ', by the hosts'' word' else '' end);
    -- A change of roles is on record as any other one: the promotion is seen through by it.
    perform note(case verdict when 'switched' then 'promote' else 'confirm' end, content,
        (primary_of(content)).dbid, told, facts(taken, told, jsonb_strip_nulls(jsonb_build_object(
            'known', known, 'words', words, 'verdict', verdict, 'accept_loss', loss))));
    return taken;
exception when invalid_text_representation or invalid_parameter_value
        or numeric_value_out_of_range then
    perform fail('MR004', format('content %s: these are no words of hosts: %s', content, words));
end $$;
